"""What is here of the client's script: the cases that no script shows."""

import sys
import types

import cloudpickle
import pytest

from civis_futures._data import pickling, unpickling
from civis_futures._files.contents import ContentStore
from civis_futures.worker import _payload, _script


@pytest.fixture
def script(monkeypatch):
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    return _script.Script()


@pytest.fixture
def client(monkeypatch):
    """client(source) -> the variables of a module of the user's, whose functions go by value."""

    def make(source):
        module = types.ModuleType("of_the_client")
        exec(source, vars(module))
        monkeypatch.setitem(sys.modules, "of_the_client", module)
        cloudpickle.register_pickle_by_value(module)
        return vars(module)

    yield make
    cloudpickle.unregister_pickle_by_value(sys.modules["of_the_client"])


def called(script, function, *args):
    made = pickling.call_payload("it", function, args, {}, ContentStore("here"))
    paths = []
    assert not made.buffers
    call, _ = _payload.load(made.data, None, paths, script)
    return call()


class Unloadable:
    def __reduce__(self):
        return divmod, (1, 0)


def test_after_a_call_that_could_not_be_unpickled_all_is_as_the_next_one_says(script, client):
    theirs = client("table = {'a': 1}\ndef work(x=None): return table['a']\n")
    assert called(script, theirs["work"]) == 1
    theirs["table"]["a"] = 2
    with pytest.raises(ZeroDivisionError):
        called(script, theirs["work"], Unloadable())
    assert called(script, theirs["work"]) == 2


def test_what_the_process_has_put_there_itself_stays(script, client):
    theirs = client(
        "early = object()\nlate = None\n"
        "def begin(): globals()['late'] = 5; return early is not None\n"
        "def work(x=early): return late, x is early\n"
    )
    assert called(script, theirs["begin"])
    assert called(script, theirs["work"]) == (5, True)
    assert called(script, theirs["work"]) == (5, True)


def test_functions_that_are_not_found_by_their_name_are_each_their_own(script, client):
    theirs = client(
        "made = []\n"
        "for n in range(3):\n"
        "    def each(n=n): return n\n"
        "    made.append(each)\n"
        "def work(): return [each() for each in made]\n"
    )
    assert called(script, theirs["work"]) == [0, 1, 2]
    assert called(script, theirs["made"][0]) == 0
    assert called(script, theirs["made"][2]) == 2
    assert called(script, theirs["work"]) == [0, 1, 2]


def test_a_long_text_that_was_changed(script, client):
    theirs = client("text = 'x' * 5000\ndef work(): return text[-1]\n")
    assert called(script, theirs["work"]) == "x"
    theirs["text"] += "y"
    assert called(script, theirs["work"]) == "y"


def test_a_payload_is_read_by_a_worker_that_knows_none_of_this(client):
    theirs = client(
        "import functools\n"
        "class C:\n    __slots__ = ('a',)\n    def __init__(self): self.a = 1\n"
        "@functools.lru_cache\ndef cached(x): return x\n"
        "def work(x): return C().a + cached(x)\n"
    )
    made = pickling.call_payload("it", theirs["work"], (2,), {}, ContentStore("here"))
    function, args, _ = cloudpickle.loads(made.data)
    assert function(*args) == 3


def test_one_object_is_one_object_wherever_it_is(script, client):
    theirs = client(
        "import collections, types\n"
        "class Model:\n    n = None\n    def get(self): return self.n\n"
        "class Slotted:\n    __slots__ = ('it',)\n"
        "class MyList(list): pass\n"
        "model = Model()\n"
        "def begin(): model.n = 7\n"
        "slotted = Slotted(); slotted.it = model\n"
        "space = types.SimpleNamespace(deep=[{'it': (1, [model])}])\n"
        "lists = [[model]], (model, [model]), collections.deque([model]), MyList([model])\n"
        "dicts = collections.OrderedDict(a={'b': model}), collections.Counter(a=[model])\n"
        "methods = {'get': [model.get]}\n"
        "itself = []; itself += [itself, model]\n"
        "def work():\n"
        "    found = [slotted.it, space.deep[0]['it'][1][0], lists[0][0][0], lists[1][0],\n"
        "             lists[1][1][0], lists[2][0], lists[3][0], dicts[0]['a']['b'],\n"
        "             dicts[1]['a'][0], methods['get'][0].__self__, itself[0][1]]\n"
        "    return [each is model for each in found], methods['get'][0](), itself[0] is itself\n"
    )
    called(script, theirs["begin"])
    assert called(script, theirs["work"]) == ([True] * 11, 7, True)
    assert called(script, theirs["work"]) == ([True] * 11, 7, True)


def test_a_call_that_is_made_again_by_the_client_has_what_the_client_has(monkeypatch):
    theirs = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", theirs)
    exec(
        "class Missing:\n"
        "    __slots__ = ()\n"
        "    def __reduce__(self): return 'MISSING'\n"
        "class Level:\n"
        "    def __init__(self, level): self.level = level\n"
        "    def __eq__(self, other): return self.level == other.level\n"
        "    def __reduce__(self): return 'LEVEL'\n"
        "MISSING, LEVEL = Missing(), Level(3)\n"
        "def work(x, y): return x is MISSING, y is LEVEL, y.level\n",
        vars(theirs),
    )
    arguments = theirs.MISSING, theirs.LEVEL
    made = pickling.call_payload("it", theirs.work, arguments, {}, ContentStore("here"))
    assert unpickling.loaded_call(made.data, [])() == (True, True, 3)


def test_only_functions_that_are_alike_are_the_clients_own(script, client):
    theirs = client(
        "import functools\n"
        "def times(factor):\n"
        "    def decorate(function):\n"
        "        @functools.wraps(function)\n"
        "        def inner(x): return factor * function(x)\n"
        "        return inner\n"
        "    return decorate\n"
        "@times(2)\n"
        "@times(3)\n"
        "def work(x): return x\n"
        "def give():\n"
        "    inner = work.__wrapped__\n"
        "    return work, inner, times(10)(inner.__wrapped__), times(5)(work)\n"
    )
    answer = _payload.dumped(called(script, theirs["give"]))
    work, inner, tenfold, fivefold = unpickling.loaded(answer)
    assert work is theirs["work"]
    assert inner is theirs["work"].__wrapped__
    assert (tenfold(1), fivefold(1), work(1)) == (10, 30, 6)
