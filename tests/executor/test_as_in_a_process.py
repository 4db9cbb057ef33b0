"""The same script with `ProcessPoolExecutor` and with ours prints the same.

One script for each kind of thing that a process pool's users rely on, with several examples of it.
Each example prints a line, so that a difference names it.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SECONDS = 60

PRELUDE = """
import sys
if sys.argv[1] == "processes":  # which are forks, as they are by default before Python 3.14
    from concurrent.futures import ProcessPoolExecutor
    from functools import partial as _partial
    from multiprocessing import get_context
    Pool = _partial(ProcessPoolExecutor, mp_context=get_context("fork"))
else:
    from civis_futures import ContainerPoolExecutor as Pool

"""


@pytest.fixture
def run_script(platform, tmp_path):
    """run_script(text, pool): what a script prints, line by line."""
    environment = {
        **os.environ,
        "CIVIS_API_KEY": platform.api_key,
        "CIVIS_API_ENDPOINT": platform.url,
        "PYTHONSAFEPATH": "1",
    }

    def run_script(text, pool):
        path = tmp_path / "script.py"
        path.write_text(text)
        done = subprocess.run(
            [sys.executable, path, pool],
            capture_output=True, text=True, timeout=SECONDS, env=environment, cwd=tmp_path,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return run_script


# --- what an initializer does stays --------------------------------------------------------------

INITIALIZER = """
import dataclasses
import enum
import functools
import types

model = None
settings = {"level": 0}
rows = []
names = set()


class State:
    shared = None
    table = {}

    def __init__(self):
        self.model = None

    def method(self):
        return self.model


class Base:
    registry = {}
    rate = 1


class Child(Base):
    pass


@dataclasses.dataclass
class Config:
    path: str = "none"
    parts: list = dataclasses.field(default_factory=list)


class Nested:
    class Inner:
        value = None


class Colour(enum.Enum):
    RED = 1


class Slotted:
    __slots__ = ("it",)


state, config, space, slotted = State(), Config(), types.SimpleNamespace(a=1), Slotted()
by_state = {"state": state}
deep = [({"states": [state]},)]


def cell():
    it = {"n": 0}

    def add(n=0):
        it["n"] += n
        return it["n"]

    return add


count = cell()


def tagged():
    return getattr(tagged, "model", None)


tagged.model = None


def kept(memo={}):
    return memo.get("x")


def later(x=None):
    return undefined_here + 1


def initialize(value):
    global model, undefined_here
    model = value
    undefined_here = value
    settings["level"] = value
    rows.append(value)
    names.add(value)
    state.model = State.shared = value
    State.table[value] = value
    Base.registry["x"] = Base.rate = value
    config.path = f"at {value}"
    config.parts.append(value)
    Nested.Inner.value = value
    Colour.RED.note = value
    space.a = value
    slotted.it = value
    count(value)
    tagged.model = value
    kept.__defaults__[0]["x"] = value
    Child.added = lambda self: value


def on_global():
    return model


def in_dict():
    return settings, rows, names


def in_instance():
    return state.model, state.method(), by_state["state"] is state, by_state["state"].model


def in_depth():
    return deep[0][0]["states"][0].model, deep[0][0]["states"][0] is state


def in_class():
    return State.shared, State.table, Base.registry, Child.registry, Child.rate


def in_others():
    return config.path, config.parts, Nested.Inner.value, space.a, slotted.it


def in_enum():
    return Colour.RED.note, Colour(1) is Colour.RED


def in_functions():
    return count(), tagged(), kept(), later()


def in_added():
    return Child().added()


def in_partial(x):
    return x, model


if __name__ == "__main__":
    with Pool(1, initializer=initialize, initargs=(42,)) as pool:
        for function in (on_global, in_dict, in_instance, in_depth, in_class, in_others, in_enum,
                         in_functions, in_added):
            print(function.__name__, pool.submit(function).result())
        print("partial", pool.submit(functools.partial(in_partial, 1)).result())
        print("method", pool.submit(State().method).result())
        print("map", list(pool.map(in_partial, range(3))))
        print("again", pool.submit(in_dict).result())
"""

# --- once for each process -----------------------------------------------------------------------

ONCE = """
import functools
import threading

model = None
loads = 0
memo = {}


def load():
    global loads
    loads += 1
    return object()


def lazily():
    global model
    if model is None:
        model = load()
    return loads


def memoized(x):
    if x not in memo:
        memo[x] = len(memo)
    return memo[x], len(memo)


class Singleton:
    _it = None
    made = 0

    def __new__(cls):
        if cls._it is None:
            cls._it = super().__new__(cls)
            cls.made += 1
        return cls._it


def singleton(x):
    return Singleton.made, Singleton() is Singleton(), Singleton.made


def remember(function):
    known = {}

    @functools.wraps(function)
    def wrapper(x):
        if x not in known:
            known[x] = function(x)
        return known[x], len(known)

    return wrapper


@remember
def decorated(x):
    return x * 2


def on_itself(x):
    on_itself.calls = getattr(on_itself, "calls", 0) + 1
    return on_itself.calls


def by_default(x, seen=[]):
    seen.append(x)
    return list(seen)


@functools.lru_cache(maxsize=None)
def cached(x):
    global computed
    computed += 1
    return computed


computed = 0


def through_cache(x):
    return cached(0), cached.cache_info().hits


MISSING = object()


def default(x=MISSING):
    return x is MISSING


def default_of_another(x=MISSING):
    return x is MISSING, default()


class Counter:
    def __init__(self):
        self.n = 0

    def __call__(self, x):
        self.n += 1
        return self.n


counter = Counter()
total = counter


def aliases(x):
    counter(x)
    return total.n, total is counter


if __name__ == "__main__":
    with Pool(1) as pool:
        print("lazily", [pool.submit(lazily).result() for _ in range(3)])
        print("default", pool.submit(default).result())
        print("default of another", pool.submit(default_of_another).result())
        for function in (memoized, singleton, decorated, on_itself, by_default, cached,
                         through_cache, aliases):
            print(function.__name__, list(pool.map(function, [1, 2, 1, 3, 1])))
"""

# --- classes, functions and objects of all kinds -------------------------------------------------

ASSORTED = """
import abc, collections, dataclasses, enum, functools, itertools, logging, random, typing
from typing import Generic, TypeVar, Protocol, TypedDict

T = TypeVar("T")
logger = logging.getLogger("x")


class Meta(type):
    _instances = {}

    def __call__(cls, *args):
        if cls not in Meta._instances:
            Meta._instances[cls] = super().__call__(*args)
        return Meta._instances[cls]


class Single(metaclass=Meta):
    def __init__(self):
        self.n = 0

    def hit(self):
        self.n += 1
        return self.n


class Shape(abc.ABC):
    kinds = {}

    def __init_subclass__(cls, **kw):
        super().__init_subclass__(**kw)
        Shape.kinds[cls.__name__] = cls

    @abc.abstractmethod
    def area(self): ...


class Square(Shape):
    def __init__(self, s):
        self.s = s

    def area(self):
        return self.s**2


class Stack(Generic[T]):
    made = 0

    def __init__(self):
        Stack.made += 1
        self.items = []

    def push(self, x: T) -> None:
        self.items.append(x)


@dataclasses.dataclass(frozen=True, slots=True)
class P:
    x: int
    y: int = 2


@dataclasses.dataclass(order=True)
class Q:
    x: int
    tags: list = dataclasses.field(default_factory=list, compare=False)
    total: typing.ClassVar[int] = 0


class Perm(enum.Flag):
    R = enum.auto()
    W = enum.auto()

    @property
    def label(self):
        return self.name.lower()


class Slots:
    __slots__ = ("a", "b")

    def __init__(self):
        self.a = 1
        self.b = 2


class TD(TypedDict):
    x: int


class Supports(Protocol):
    def area(self): ...


N = collections.namedtuple("N", "a b")
counts = collections.defaultdict(lambda: 0)
tally = collections.Counter()
queue = collections.deque(maxlen=3)
number = iter(range(5, 1000))
rng = random.Random(3)
step = functools.partial(max, 3)
stack = Stack()
slots = Slots()
registry = {}


def register(f):
    registry[f.__name__] = f
    return f


@register
def one(x):
    return x + 1


@register
def two(x):
    return registry["one"](x) * 2


def single(x):
    return Single().hit()


def shapes(x):
    return (
        sorted(Shape.kinds),
        Shape.kinds["Square"] is Square,
        Square(x).area(),
        isinstance(Square(x), Shape),
    )


def abstract(x):
    try:
        Shape()
    except TypeError:
        return "abstract"


def stacked(x):
    stack.push(x)
    return stack.items, Stack.made, Stack[int].__origin__ is Stack


def points(x):
    return (
        P(x),
        P(x) == P(x),
        hash(P(x)) == hash(P(x)),
        dataclasses.replace(P(x), y=9),
        dataclasses.asdict(Q(x)),
    )


def ordered(x):
    Q.total += x
    return Q(1) < Q(2), Q.total, dataclasses.fields(Q)[1].name


def perms(x):
    return (Perm.R | Perm.W).value, Perm.R.label, Perm(1) is Perm.R


def named(x):
    return N(x, 2)._asdict(), N(1, x)


def counted(x):
    counts[x] += 1
    tally[x] += 1
    queue.append(x)
    return dict(counts), dict(tally), list(queue)


def numbers(x):
    return next(number), rng.randint(0, 1000), step(x)


def slotted(x):
    slots.a += x
    return slots.a


def registered(x):
    return sorted(registry), registry["two"](x), registry["one"] is one


def log(x):
    logger.setLevel(10 + x)
    return logger.level, logger is logging.getLogger("x")


def td(x):
    return TD(x=x), issubclass(type(stack), Stack)


def gen(n):
    yield from range(n)


def uses_gen(x):
    return list(gen(x))


class Desc:
    def __get__(self, obj, owner):
        return 42 if obj is None else obj.v

    def __set_name__(self, owner, name):
        self.name = name


class HasDesc:
    d = Desc()

    def __init__(self):
        self.v = 7


def desc(x):
    return HasDesc.d, HasDesc().d, HasDesc.__dict__["d"].name


class Ctx:
    depth = 0

    def __enter__(self):
        Ctx.depth += 1
        return self

    def __exit__(self, *a):
        pass


ctx = Ctx()


def in_ctx(x):
    with ctx as c:
        return c.depth


def outer():
    n = 0

    def inc():
        nonlocal n
        n += 1
        return n

    def get():
        return n

    return inc, get


inc, get = outer()


def pair(x):
    inc()
    return get()


class Tree:
    def __init__(self, v, parent=None):
        self.v, self.parent, self.kids = v, parent, []


root = Tree(0)
kid = Tree(1, root)
root.kids.append(kid)


def tree(x):
    root.v += 1
    return kid.parent is root, root.kids[0] is kid, kid.parent.v


fs = []
for i in range(3):

    def lf(x, i=i):
        return x * i

    fs.append(lf)


def many(x):
    return [f(x) for f in fs]


f0 = fs[0]
cond = one if True else two


def alias(x):
    return cond(x), cond is one, f0(x)


async def co(x):
    return x + 1


class Deep:
    class Er:
        class Est:
            n = 0

            def up(self):
                Deep.Er.Est.n += 1
                return Deep.Er.Est.n


def deep(x):
    return Deep.Er.Est().up(), Deep.Er.Est.__qualname__


def lambda0(v):
    return v


if __name__ == "__main__":
    with Pool(1) as pool:
        for f in [
            single,
            shapes,
            abstract,
            stacked,
            points,
            ordered,
            perms,
            named,
            counted,
            numbers,
            slotted,
            registered,
            log,
            td,
            uses_gen,
            desc,
            in_ctx,
            pair,
            tree,
            many,
            alias,
            deep,
        ]:
            try:
                print(f.__name__, list(pool.map(f, [1, 2, 1])))
            except BaseException as e:
                print(f.__name__, type(e), str(e)[:300])
        for v in [
            P(1),
            Q(1),
            N(1, 2),
            Perm.R,
            Slots(),
            Square(2),
            one,
            Square,
            Deep.Er.Est(),
            {"a": [P(1)]},
            Single(),
        ]:
            try:
                back = pool.submit(lambda0, v).result()
                print(
                    type(v).__name__,
                    type(back) is type(v),
                    (back == v) if type(v) is not Slots else back.a,
                )
            except BaseException as e:
                print(type(v), type(e), str(e)[:300])
"""

# --- an initializer that is given what the script has a name for ---------------------------------

GIVEN = """
class State:
    def __init__(self):
        self.model = None

    def setup(self, x):
        self.model = x


state, cache, rows = State(), {}, []


def look():
    return state.model, cache, rows


def fill(c, r):
    c["x"] = 1
    r.append(2)


def with_global():
    globals()["late"] = 5


late = None


def see_late():
    return late


class Called:
    def __call__(self, x):
        self.x = x


called = Called()


def see_called():
    return called.x


if __name__ == "__main__":
    with Pool(1, initializer=state.setup, initargs=(3,)) as pool:
        print(pool.submit(look).result())
    with Pool(1, initializer=fill, initargs=(cache, rows)) as pool:
        print(pool.submit(look).result())
    with Pool(1, initializer=with_global) as pool:
        print(pool.submit(see_late).result())
    with Pool(1, initializer=called, initargs=(4,)) as pool:
        print(pool.submit(see_called).result())
"""

# --- what the standard library wraps functions in ------------------------------------------------

WRAPPED = """
import collections
import contextlib
import enum
import functools
import typing


@functools.lru_cache(maxsize=3)
def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)


@functools.cache
def twice(x):
    return 2 * x


@functools.singledispatch
def show(x):
    return f"any {x}"


@show.register(int)
def _(x):
    return f"int {x}"


@show.register
def show_list(x: list):
    return f"list of {[show(each) for each in x]}"


class Shape:
    def __init__(self, side):
        self.side = side

    @functools.cached_property
    def area(self):
        return self.side ** 2

    @functools.lru_cache
    def scaled(self, by):
        return self.side * by

    @functools.singledispatchmethod
    def tell(self, x):
        return "any"

    @tell.register
    def _(self, x: int):
        return f"int {self.side}"

    @staticmethod
    @functools.cache
    def of(side):
        return Shape(side).area

    double = functools.partialmethod(scaled, 2)


table = {"twice": twice, "shape": Shape(3)}


class Tool:
    functions = [fib, twice]
    show = staticmethod(show)


def use(x):
    return table["twice"](x), Tool.functions[0](x), Tool.show(x), table["shape"].area


def tell(x):
    return Shape(4).tell(x)


def local(x):
    @functools.cache
    def inner(y):
        return y + x
    return inner


def call(function, x):
    return function(x)


def info(x):
    fib(x)
    return fib.cache_info().maxsize, fib.cache_parameters(), fib.__name__, fib.__wrapped__(1)


if __name__ == "__main__":
    with Pool(1) as pool:
        print("fib", pool.submit(fib, 20).result())
        print("twice", list(pool.map(twice, range(3))))
        print("show", list(pool.map(show, [1, "x", [1, "y"]])))
        print("area", pool.submit(getattr, Shape(4), "area").result())
        print("scaled", pool.submit(Shape(4).scaled, 3).result(), pool.submit(Shape.of, 2).result())
        print("tell", list(pool.map(tell, [3, ""])))
        print("double", pool.submit(Shape(4).double).result())
        print("use", pool.submit(use, 5).result())
        print("as an argument", pool.submit(call, twice, 4).result())
        print("partial", pool.submit(functools.partial(call, fib), 7).result())
        print("info", pool.submit(info, 7).result())
        shape = Shape(5)
        shape.area
        print("known", pool.submit(vars, shape).result())
"""

# --- found by name -------------------------------------------------------------------------------

BY_NAME = """
from __future__ import annotations

import copy
import dataclasses
import enum
import multiprocessing
import pickle
import sys
import threading
import typing
from typing import Optional


def helper(x):
    return x + 1


class Point:
    def __init__(self, x):
        self.x = x

    def moved(self):
        return Point(self.x + 1)

    class Part:
        pass


@dataclasses.dataclass
class Node:
    value: int
    next: Optional[Node] = None
    point: typing.List[Point] = dataclasses.field(default_factory=list)


class Pair(typing.NamedTuple):
    a: int
    b: Point


class Colour(enum.Enum):
    RED = "red"


class MyError(Exception):
    pass


def annotated(x: Optional[Point], y: MyError) -> Pair:
    pass


def pooled(n):
    with multiprocessing.get_context("fork").Pool(2) as pool:
        return pool.map(helper, range(n)), [p.x for p in pool.map(Point, range(n))]


lock = None
state = {"step": 10}


def stepped(x):
    return Point(helper(x) + state["step"] - 1)


def pooled_anew(method, n):
    # By interpreters that are started for it, as is the default since Python 3.14.
    global lock
    lock = threading.Lock()  # it has no pickle, and nobody asks for it there
    with multiprocessing.get_context(method).Pool(1) as pool:
        points = pool.map(stepped, range(n))
        return [p.x for p in points], {type(p) is Point for p in points}, pool.map(helper, [1])


def dumped():
    things = [Point(1), Node(1, Node(2)), Pair(1, 2), Colour.RED, MyError("x"), helper, Point,
              Point.Part(), Point(3).moved]
    return [type(each).__name__ for each in pickle.loads(pickle.dumps(things))]


def dumped_argument(thing):
    return pickle.loads(pickle.dumps(thing)) == thing, copy.deepcopy(thing) == thing


def names():
    return (Point.__qualname__, Point.Part.__qualname__, Point.Part.__module__, repr(Colour.RED),
            Point.moved.__qualname__)


def hints():
    of_node = typing.get_type_hints(Node)
    return (sorted(of_node), of_node["next"] == Optional[Node],
            sorted(typing.get_type_hints(annotated)), sorted(typing.get_type_hints(Pair)))


def in_main():
    main = sys.modules["__main__"]
    return (main.helper is helper, main.Point is Point, main.__name__, globals() is vars(main),
            hasattr(main, "fetch"))


def by_string(name):
    helper(1)
    return globals()[name](1)


def imported():
    import __main__
    return __main__.helper(1), Point.__module__


if __name__ == "__main__":
    with Pool(1) as pool:
        for function in (pooled, dumped, names, hints, in_main, imported):
            given = (3,) if function is pooled else ()
            print(function.__name__, pool.submit(function, *given).result())
        for method in ("spawn", "forkserver"):
            print(method, pool.submit(pooled_anew, method, 3).result())
        print("argument", pool.submit(dumped_argument, Node(1, Node(2))).result())
        print("enum", pool.submit(dumped_argument, {Colour.RED: Pair(1, 2)}).result())
        print("by string", pool.submit(by_string, "helper").result())
"""

# --- what comes back -----------------------------------------------------------------------------

BACK = """
import dataclasses
import enum
import functools
import pickle

rate = 3


def helper(x):
    return x * rate


class Model:
    count = 0
    rate = 1.0
    parts = {}

    class Part:
        size = 1

    def __init__(self, x):
        self.x = x
        self.function = helper
        self.part = self.Part()

    def predict(self):
        return self.x * rate

    @classmethod
    def make(cls, x):
        return cls(x)

    @property
    def doubled(self):
        return self.x * 2

    def __eq__(self, other):
        return type(self) is type(other) and self.x == other.x


class Special(Model):
    pass


@dataclasses.dataclass(frozen=True)
class Result:
    value: float
    model: object = None

    def scaled(self):
        return self.value * rate


class Level(enum.IntEnum):
    LOW = 1


class MyError(ValueError):
    seen = []

    def __init__(self, x):
        super().__init__(x)
        self.x = x


def fit(x):
    Model.count += 1
    Model.parts["there"] = x
    Model.Part.size = 7
    Model.rate = 2.0
    Special.added = 1
    return Special(x)


def result(x):
    return Result(x, Model.make(x))


def level():
    return {"level": Level.LOW, "type": Level, "helper": helper, "model": Model}


def fail(x):
    MyError.seen.append(x)
    raise MyError(x)


def doubled(model):
    return model.doubled, type(model) is Special, Model.count


def told(line, *values):
    print(line, *values)


if __name__ == "__main__":
    predict, before = Model.predict, dict(vars(Model))
    with Pool(1) as pool:
        model = pool.submit(fit, 2).result()
        rate = 2
        told("predict", model.predict(), model.function(5), Model(3).predict())
        told("class", type(model) is Special, Model.count, Model.rate, Model.parts, Model.Part.size)
        changed = {name for name in before if vars(Model)[name] is not before[name]}
        told("methods", Model.predict is predict, changed)
        told("added", hasattr(Special, "added"), type(model.part) is Model.Part)
        told("helper", model.function is helper)
        told("saved", pickle.loads(pickle.dumps(model)) == model)
        back = pool.submit(result, 4).result()
        told("result", back.scaled(), type(back) is Result, back == Result(4, Model(4)))
        told("saved", pickle.loads(pickle.dumps(back)) == back)
        back = pool.submit(level).result()
        told("level", back["level"] is Level.LOW, back["type"] is Level, back["helper"] is helper,
             back["model"] is Model)
        error = pool.submit(fail, 5).exception()
        told("error", type(error) is MyError, error.x, MyError.seen, isinstance(error, ValueError))
        told("there and back", pool.submit(doubled, model).result())
        told("class", Model.count, Model.rate, Model.parts, Model.Part.size)
"""


LAZY = """
import dataclasses
import functools
import typing

if typing.TYPE_CHECKING:
    from collections.abc import Missing


class Node:
    next: Node | None
    others: list[Node]
    count: int

    def before(self, other: Node, later: Later) -> Node:
        return other


class Later:
    nodes: typing.Annotated[dict[str, Node], "by name"]


class Half:
    there: int
    missing: Missing


class Pair(typing.NamedTuple):
    a: int
    b: Node | Pair


class Table(typing.TypedDict, total=False):
    rows: list[Later]
    name: typing.Required[str]


@dataclasses.dataclass
class Record:
    value: int
    node: Record | None = None


class Derived(Record):
    extra: Later


class Plain:
    pass


class Box[T]:
    held: T
    more: list[Box[int]]


def annotated(x: int, y: Later = None, *z: Node) -> Record:
    return x


def half(x: Missing, y: int = 1) -> int:
    return y


@functools.cache
def cached(x: Half) -> Missing:
    return x


def local():
    class Inner:
        other: Inner
        node: Node

    def inner(x: Inner) -> Node:
        return x

    return Inner, inner


def of(thing):
    return {name: str(each) for name, each in typing.get_type_hints(thing).items()}


def classes():
    return [of(each) for each in (Node, Node.before, Later, Pair, Table, Record, Derived, Plain)]


def same():
    hints = typing.get_type_hints
    return (hints(Node)["next"] == Node | None, hints(Record)["node"] == Record | None,
            hints(Later, include_extras=True)["nodes"].__metadata__, Table.__required_keys__,
            hints(Box)["held"] is Box.__type_params__[0], Plain.__annotations__,
            [each.name for each in dataclasses.fields(Derived)], Pair._field_defaults)


def functions():
    return of(annotated), annotated(1), half(1), cached(2), sorted(half.__annotations__)


def failed():
    told = []
    for each in (Half, half, cached):
        try:
            told.append(of(each))
        except NameError as error:
            told.append(error.name)
    return told


def given(*things):
    return [of(each) for each in things]


if __name__ == "__main__":
    with Pool(1) as pool:
        for function in (classes, same, failed):
            print(function.__name__, pool.submit(function).result())
            print(function.__name__, pool.submit(function).result())
        print("given", pool.submit(given, Node, annotated, Pair).result())
        print("here", classes(), same(), failed(), half(1))
        if sys.argv[1] == "processes":
            print("local", given(*local()))
            print("functions", of(annotated), 1, 1, 2, ["return", "x", "y"])
        else:
            print("local", pool.submit(given, *local()).result())
            print("functions", *pool.submit(functions).result())
"""


# --- what makes classes, and their members -------------------------------------------------------

ENUMERATIONS = """
import enum


class Planet(enum.Enum):
    EARTH = 5.9, 6.3
    MARS = 0.6, 3.4

    def __init__(self, mass, radius):
        self.mass, self.radius = mass, radius

    @property
    def density(self):
        return round(self.mass / self.radius, 3)


class Code(bytes, enum.Enum):
    OK = 1, "fine"
    ALIAS = 1, "fine"
    BAD = 2, "not"

    def __new__(cls, value, label):
        made = bytes.__new__(cls, [value])
        made._value_, made.label = value, label
        return made


class Tagged(enum.Enum):
    def __new__(cls, value, tag):
        made = object.__new__(cls)
        made._value_, made.tag = value, tag
        return made


class Mood(Tagged):
    GOOD = 4, "+"


class Level(enum.IntEnum):
    LOW = 1, "low"

    def __new__(cls, value, label):
        made = int.__new__(cls, value)
        made._value_, made.label = value, label
        return made


class Meta(enum.EnumMeta):
    kinds = []

    def __new__(meta, name, bases, variables, **given):
        Meta.kinds.append(name)
        return super().__new__(meta, name, bases, variables, **given)

    def __contains__(cls, value):
        return value in {each.value for each in cls}


class Listed(enum.Enum, metaclass=Meta):
    ONE = 1
    UNO = 1


class Kind(enum.Enum):
    def __new__(cls, value, *others):
        made = object.__new__(cls)
        made._value_ = value
        for each in others:
            cls._value2member_map_[each] = made
        return made

    DOUBLE = "f8", "double", 8


class Way(enum.Enum):
    @enum.member
    def first():
        return 1

    helper = enum.nonmember(len)


class Bits(enum.Flag, boundary=enum.KEEP):
    A = 1
    B = 2
    AB = 3


class Name(str, enum.Enum):
    def _generate_next_value_(name, start, count, last):
        return name.lower()

    X = enum.auto()


def all_of_them():
    return [*Planet, *Code, Code.ALIAS, *Mood, *Level, *Listed, Listed.UNO, Bits.A, Bits.AB,
            Bits.A | Bits.B, *Name]


def attributes():
    return Planet.EARTH.density, Code.BAD.label, Mood.GOOD.tag, Level.LOW.label, Level.LOW + 1


def values():
    return (Planet((0.6, 3.4)), Code(2) is Code.BAD, bytes(Code.BAD), Mood(4), Level(1), Name("x"),
            Bits(7), [*Bits.__members__], Way.first.value(), Way.helper("ab"), Kind(8),
            Kind("double"), Kind("f8"))


def others():
    return (1 in Listed, 5 in Listed, Meta.kinds, [*Listed.__members__], Code.ALIAS is Code.OK,
            Name.X == "x", hash(Level.LOW) == hash(1))


def keep():
    global kept
    kept = Listed


def is_kept():
    return kept is Listed


kept = None


def same(each):
    return each


if __name__ == "__main__":
    with Pool(1) as pool:
        for function in (attributes, values, others, others):
            print(function.__name__, pool.submit(function).result())
        pool.submit(keep).result()
        print("kept", pool.submit(is_kept).result())
        back = pool.submit(all_of_them).result()
        print([each is here for each, here in zip(back, all_of_them())])
        for each in all_of_them():
            print(each, pool.submit(same, each).result() is each)
"""

CLASSES = """
import abc
import collections
import contextvars
import dataclasses
import threading
import typing

T, P = typing.TypeVar("T"), typing.ParamSpec("P")
depth = contextvars.ContextVar("depth", default=3)
Number = typing.NewType("Number", int)


class Plugin:
    known = {}

    def __init_subclass__(cls, /, key, **given):
        super().__init_subclass__(**given)
        Plugin.known[key] = cls


class Csv(Plugin, key="csv"):
    pass


class Tsv(Csv, key="tsv"):
    def read(self):
        return "tsv"


class Table(type):
    made = []

    def __new__(meta, name, bases, variables, *, table):
        Table.made.append(name)
        kind = super().__new__(meta, name, bases, variables)
        kind.table = table
        return kind

    def __init__(cls, name, bases, variables, *, table):
        super().__init__(name, bases, variables)

    def __call__(cls, *given):
        made = super().__call__(*given)
        made.counted = True
        return made


class Users(metaclass=Table, table="users"):
    pass


class Abstract(abc.ABCMeta):
    seen = []

    def __new__(meta, name, *given):
        Abstract.seen.append(name)
        return super().__new__(meta, name, *given)


class Shape(metaclass=Abstract):
    @abc.abstractmethod
    def area(self): ...


class Square(Shape):
    def area(self):
        return 4


class Stage:
    @classmethod
    def names(cls):
        return [each.__name__ for each in cls.__subclasses__()]


class First(Stage):
    pass


class Second(First):
    pass


class Third(Stage):
    pass


class Guarded(Shape):  # which cannot be sent, and is not derived from what the tasks ask
    lock = threading.Lock()


class Cell(typing.NamedTuple, typing.Generic[T]):
    value: T
    note: str = ""


class Row(typing.TypedDict):
    name: str


class LongRow(Row, total=False):
    more: int


class Decorated(typing.Generic[P]):
    def __init__(self, function: typing.Callable[P, T]):
        self.function = function

    def __call__(self, *args: P.args) -> T:
        return self.function(*args)


twice = Decorated(lambda x: 2 * x)


def hooks():
    return sorted(Plugin.known), Plugin.known["tsv"] is Tsv, Plugin.known["tsv"]().read()


def metaclasses():
    return Users.table, Users().counted, Table.made, Square().area(), Abstract.seen


def local():
    class Local(Plugin, key="local"):
        pass

    return sorted(Plugin.known), Local.__mro__[1] is Plugin


def subclasses():
    return (Stage.names(), [each.__name__ for each in Stage.__subclasses__()],
            [each.__name__ for each in First.__subclasses__()])


def of_typing():
    return Cell(1), Cell[int](2), Cell._field_defaults, LongRow(name="x"), Number(3), twice(4)


def sets_depth():
    depth.set(depth.get() + 1)
    return depth.get()


def same(each):
    return each


if __name__ == "__main__":
    with Pool(1) as pool:
        for function in (hooks, hooks, metaclasses, subclasses, subclasses, of_typing, sets_depth,
                         sets_depth, local):
            print(function.__name__, pool.submit(function).result())
        for each in (Tsv(), Users(), Square(), Third(), Cell(1), Cell[int](2), LongRow(name="x")):
            back = pool.submit(same, each).result()
            print(type(back) is type(each))
        print(pool.submit(same, Number).result() is Number, pool.submit(same, P).result() is P)
        print("here", sorted(Plugin.known), Table.made, Abstract.seen, Stage.names())
"""

# --- instances that are pickled as entries of a table --------------------------------------------

TABLES = """
units, rows = {}, []


def lookup(name):
    return units[name]


def row(number):
    return rows[number]


class Unit:
    def __init__(self, name, factor):
        self.name, self.factor = name, factor
        units[name] = self

    def __reduce__(self):
        return lookup, (self.name,)


class Row:
    def __init__(self):
        self.number = len(rows)
        rows.append(self)

    def __reduce__(self):
        return row, (self.number,)


class Symbol:
    known = {}

    def __new__(cls, name):
        if name not in cls.known:
            cls.known[name] = self = super().__new__(cls)
            self.name, self.seen = name, []
        return cls.known[name]

    def __reduce__(self):
        return Symbol, (self.name,)


class Point:
    _all = {}

    def __init__(self, x, y):
        self.at = x, y
        Point._all[x, y] = self

    @classmethod
    def of(cls, at):
        return cls._all[at]

    def __reduce__(self):
        return Point.of, (self.at,)


class Registry:
    def __init__(self):
        self.items = {}


class Node:
    def __init__(self, key):
        self.key = key
        registry.items[key] = self

    def __reduce__(self):
        return node, (self.key,)


def node(key):
    return registry.items[key]


registry = Registry()
metre, line, pi, origin, first = Unit("m", 5), Row(), Symbol("pi"), Point(0, 0), Node("first")


def known():
    return sorted(units), len(rows), sorted(Symbol.known), list(Point._all), list(registry.items)


def is_that(unit, row, symbol, point, node):
    symbol.seen.append(1)
    there = unit is units["m"], row is rows[0], symbol is Symbol("pi"), point is Point.of((0, 0))
    return *there, node is registry.items["first"], unit.factor, len(symbol.seen)


def change(unit):
    unit.factor += 1


def same(thing):
    return thing


if __name__ == "__main__":
    things = metre, line, pi, origin, first
    with Pool(1) as pool:
        print(pool.submit(known).result())
        for _ in range(2):
            print(pool.submit(is_that, *things).result())
            pool.submit(change, metre).result()
        for each in things:
            [back], again = pool.submit(same, [each]).result(), pool.submit(same, each).result()
            print(back is each, again is each)
        print("here", known(), metre.factor, pi.seen)
"""

# --- instances that are pickled by a name --------------------------------------------------------

NAMED = """
import copy
import dataclasses
import pickle


class Missing:
    def __init__(self):
        self.asked, self.itself = 0, self

    def __reduce__(self):
        return "MISSING"


class Whole(int):
    def __reduce__(self):
        return "SEVEN"


class Slotted:
    __slots__ = ("a", "b")

    def __reduce_ex__(self, protocol):
        return "SLOTTED"


@dataclasses.dataclass(frozen=True)
class Frozen:
    level: int

    def __reduce__(self):
        return "FROZEN"


class Given:
    def __reduce__(self):
        return _given, ()


class Single:
    it = None

    def __new__(cls):
        cls.it = cls.it or super().__new__(cls)
        return cls.it

    def __reduce__(self):
        return Single, ()


class Outer:
    class Inner:
        def __reduce__(self):
            return "Outer.inner"


class Connection:
    def __init__(self, url):
        self.url, self.lines = url, (each for each in url)

    def __reduce__(self):
        return Connection, (self.url,)


def _given():
    return GIVEN


MISSING, SEVEN, SLOTTED, GIVEN, SINGLE = Missing(), Whole(7), Slotted(), Given(), Single()
FROZEN = Frozen(5)
Outer.inner, connection = Outer.Inner(), Connection("there")
SLOTTED.a = 4


def all_of_them():
    return [MISSING, SEVEN, SLOTTED, GIVEN, SINGLE, Outer.inner, FROZEN]


def are(given, default=MISSING):
    return [each is here for each, here in zip(given, all_of_them())], default is MISSING


def asked(default=MISSING):
    default.asked += 1
    return (MISSING.asked, MISSING.itself is MISSING, SLOTTED.a, SEVEN + 1, FROZEN.level,
            connection.url)


def copied():
    return [pickle.loads(pickle.dumps(each)) is copy.copy(each) is each for each in all_of_them()]


def same(each):
    return each


if __name__ == "__main__":
    with Pool(1) as pool:
        print("alone", pool.submit(same, SEVEN).result() is SEVEN)
        for _ in range(2):
            print("there", pool.submit(are, all_of_them()).result(), pool.submit(asked).result())
        print("copied", pool.submit(copied).result())
        print("back", are(pool.submit(all_of_them).result()))
"""

# --- functions that come back --------------------------------------------------------------------

FUNCTIONS_BACK = """
import functools


@functools.cache
def cached(x):
    return x


@functools.singledispatch
def show(x):
    return "any"


@show.register
def show_int(x: int):
    return "int"


class Tool:
    @functools.lru_cache
    def method(self):
        return 1

    @staticmethod
    def static():
        return 1


def give():
    cached.note = "there"
    cached(1)
    show.register(str, lambda x: "text")
    return {"cached": cached, "partial": functools.partial(cached, 1), "static": Tool.static,
            "method": Tool.method}


def give_more():
    show.register(str, show_int)
    return show


def same(each):
    return each


if __name__ == "__main__":
    with Pool(1) as pool:
        back = pool.submit(give).result()
        print(back["cached"] is cached, back["partial"].func is cached,
              back["static"] is Tool.static, back["method"] is Tool.method)
        print(hasattr(cached, "note"), cached.cache_info())
        print(pool.submit(give_more).result() is show, show("x"), len(show.registry))
        for each in (cached, show, Tool.static, Tool.method):
            print(pool.submit(same, each).result() is each)
"""

ALIASES = """
import typing

type Rows = list[float]
type Tree = int | list[Tree]
type One = list[Other] | None
type Other = One | int
type Pair[A, B] = tuple[A, B]


def mean(rows: Rows, tree: Tree = 1, other: One = None) -> Pair[int, float]:
    return len(rows), sum(rows) / len(rows)


def call[**P, R](function: typing.Callable[P, R], *given: P.args) -> R:
    return function(*given)


def hints():
    of = typing.get_type_hints(mean)
    return of["rows"] is Rows, Rows.__value__, Rows.__name__, Pair[int, str].__args__


if __name__ == "__main__":
    with Pool(1) as pool:
        print(pool.submit(mean, [1.0, 2.0]).result(), pool.submit(call, len, "abc").result())
        print(pool.submit(hints).result())
        print(pool.submit(hints).result())
"""


#: What only these Pythons have.
SINCE = {"LAZY": (3, 14), "ALIASES": (3, 12)}  # annotations that wait to be asked for; `type`
KINDS = [
    pytest.param(
        kind,
        marks=pytest.mark.skipif(sys.version_info < SINCE.get(kind, ()), reason="no such thing"),
    )
    for kind in (
        "INITIALIZER",
        "GIVEN",
        "ONCE",
        "ASSORTED",
        "WRAPPED",
        "BY_NAME",
        "LAZY",
        "BACK",
        "ENUMERATIONS",
        "CLASSES",
        "NAMED",
        "TABLES",
        "FUNCTIONS_BACK",
        "ALIASES",
    )
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_script_prints_the_same(run_script, kind):
    text = PRELUDE.lstrip() + globals()[kind]
    if "from __future__" in text:
        text = "from __future__ import annotations\n" + text.replace(
            "from __future__ import annotations\n", ""
        )
    expected = run_script(text, "processes")
    assert len(expected) > 2
    assert run_script(text, "containers") == expected


# --- what the client changes takes effect --------------------------------------------------------

CHANGES = """
from civis_futures import ContainerPoolExecutor

rate = 1
table = {"a": 1}
memo = {}
model = None
MISSING = object()


class Config:
    level = 1
    gone = 1
    model = None

    def method(self):
        return "old"


kept = Config()


def work(x=1):
    memo[len(memo)] = rate
    global model
    model = model or len(memo)
    Config.model = Config.model or "loaded"
    kept.x = getattr(kept, "x", 0) + 1
    return (rate, table["a"], len(memo), model, x, Config.level, hasattr(Config, "gone"),
            Config.model, kept.method(), isinstance(kept, Config), kept.x, step())


def step():
    return "first"


def same(x=MISSING):
    return x is MISSING


print(executor.submit(work).result())
rate = 2
print("variable", executor.submit(work).result())
table["a"] = 5
print("in a dict", executor.submit(work).result())
work.__defaults__ = (7,)
print("default", executor.submit(work).result())
Config.level = 3
print("attribute", executor.submit(work).result())
del Config.gone
print("deleted", executor.submit(work).result())
exec("def step(): return 'second'", globals())
print("function", executor.submit(work).result())
Config.method = lambda self: "new"
print("method", executor.submit(work).result())
memo = {}
print("variable", executor.submit(work).result())
Config.model = "given"
print("attribute", executor.submit(work).result())
print("a sentinel", executor.submit(lambda: same()).result(), executor.submit(same).result())
exec("def again(x=MISSING): return x is MISSING, same()", globals())
print("a new function", executor.submit(again).result())
old, rate = work, 9
exec("def work(): return rate, len(memo)", globals())
print("both", executor.submit(work).result(), executor.submit(old).result())
exec("class Config:\\n    level = 8\\n    def method(self): return Config.level", globals())
print("a class", executor.submit(lambda: (Config().method(), Config.model is None)).exception())
kept = Config()
print("an instance", executor.submit(lambda: isinstance(kept, Config)).result())
"""

CHANGED = """
(1, 1, 1, 1, 1, 1, True, 'loaded', 'old', True, 1, 'first')
variable (2, 1, 2, 1, 1, 1, True, 'loaded', 'old', True, 2, 'first')
in a dict (2, 5, 3, 1, 1, 1, True, 'loaded', 'old', True, 3, 'first')
default (2, 5, 4, 1, 7, 1, True, 'loaded', 'old', True, 4, 'first')
attribute (2, 5, 5, 1, 7, 3, True, 'loaded', 'old', True, 5, 'first')
deleted (2, 5, 6, 1, 7, 3, False, 'loaded', 'old', True, 6, 'first')
function (2, 5, 7, 1, 7, 3, False, 'loaded', 'old', True, 7, 'second')
method (2, 5, 8, 1, 7, 3, False, 'loaded', 'new', True, 8, 'second')
variable (2, 5, 9, 1, 7, 3, False, 'loaded', 'new', True, 9, 'second')
attribute (2, 5, 10, 1, 7, 3, False, 'given', 'new', True, 10, 'second')
a sentinel True True
a new function (True, True)
both (9, 10) (9, 5, 11, 1, 7, 3, False, 'given', 'new', True, 11, 'second')
a class type object 'Config' has no attribute 'model'
an instance True
"""


def test_what_is_changed_takes_effect_and_nothing_else(run_script):
    """Lines with one difference each, and what the process counts goes on. (An empty `memo` was
    sent at first, so `memo = {}` changes nothing.)
    """
    head = "from civis_futures import ContainerPoolExecutor\nexecutor = ContainerPoolExecutor(1)\n"
    printed = run_script(head + CHANGES + "executor.shutdown()\n", "containers")
    assert printed == CHANGED.strip().splitlines()


LOCAL_HOOKS = """
def family():
    class Plugin:
        known = []

        def __init_subclass__(cls):
            Plugin.known.append(cls.__name__)

    class Csv(Plugin):
        pass

    class Tsv(Csv):
        pass

    return Plugin, Csv, Tsv


def known(plugin, *_):
    return plugin.known


print(executor.submit(known, *family()).result())
print(executor.submit(family).result()[0].known)
"""


def test_the_hook_of_a_local_class_has_run_where_it_was_made(run_script):
    """A process pool cannot send such classes at all."""
    head = "from civis_futures import ContainerPoolExecutor\nexecutor = ContainerPoolExecutor(1)\n"
    printed = run_script(head + LOCAL_HOOKS + "executor.shutdown()\n", "containers")
    assert printed == ["['Csv', 'Tsv']"] * 2
