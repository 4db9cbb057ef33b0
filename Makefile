# The two commands are `make demo` and `make test`; both work in a fresh clone, and in a year: they
# install what constraints.txt says.
#
# .venv        the project as it is being edited: for the demo, and for working on it
# build/venv   the built wheel, and what is needed to test it: for `make test`
#
# build/newest and build/lowest are as build, with other versions than those of constraints.txt.

PYTHON ?= python3
BUILD := build
RESOLUTION :=
SOURCES := $(shell find civis_futures civis_joblib -type f -not -name '*.pyc') pytest_civis_futures.py
PIP := -m pip --disable-pip-version-check
# What is installed, and what a wheel is built with, is what constraints.txt says.
EXACTLY := -q -c constraints.txt --build-constraint constraints.txt
EXTRAS := [joblib,local,progress,tls]
GROUPS := --group lint --group test --group docs
# Not from the root of the project, where `import civis_futures` would find the sources.
PYTEST := cd $(BUILD) && venv/bin/pytest -c '$(CURDIR)/pyproject.toml' '$(CURDIR)/tests'
ALONE_FILES := $(shell grep -rl --include='test_*.py' 'mark\.alone' tests)
# Those that compare times come after all others, one by one.
TESTS = $(PYTEST) -q -n 6 --dist worksteal -m 'not stress and not bench and not alone $(LESS)'
ALONE = cd $(BUILD) && venv/bin/pytest -c '$(CURDIR)/pyproject.toml' -q -m 'alone $(LESS)' $(ALONE_FILES:%='$(CURDIR)/%')
# What shows again, in another mode, what another test shows: CI runs it, too.
LESS := and not repeats

.PHONY: demo test engines test-newest test-lowest style types unit compare coverage docs stress bench screenshots develop format lock clean

demo: .venv/demo
	.venv/bin/python docs/examples/quickstart.py

# The tests that compare times mostly wait: meanwhile the other core can do what is no test.
test: style $(BUILD)/installed
	@$(MAKE) -j3 types docs compare
	@$(TESTS)

# What the tests of other engines than processes need; Debian's packages, so it must be root. Without
# it `make test` skips these tests, and says so.
engines:
	tests/engines/start-image.sh $(BUILD)/engines
	tests/engines/start-docker.sh $(BUILD)/engines install
	tests/engines/start-slurm.sh $(BUILD)/engines install

# The newest releases, with PRE=1 also those that are not final.
test-newest:
	rm -rf build/newest
	$(MAKE) types docs unit BUILD=build/newest RESOLUTION=highest

# The lowest that pyproject.toml allows.
test-lowest:
	rm -rf build/lowest
	$(MAKE) unit BUILD=build/lowest RESOLUTION=lowest-direct

style: $(BUILD)/venv/ready
	$(BUILD)/venv/bin/ruff format --check -q .
	$(BUILD)/venv/bin/ruff check -q .

types: $(BUILD)/installed
	$(BUILD)/venv/bin/mypy --no-error-summary

unit: $(BUILD)/installed
	@$(TESTS)
	@$(ALONE)

# Those that compare times, in two pools that are at work at the same time.
compare: $(BUILD)/installed
	@$(ALONE)

# The same tests, a third slower: each container's process is measured, too. The folders are named,
# since coverage may take what is in site-packages for somebody else's.
coverage: LESS :=
coverage: $(BUILD)/installed
	@site=$$($(BUILD)/venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'); \
	$(TESTS) --cov=$$site/civis_futures --cov=$$site/civis_joblib --cov-config=../pyproject.toml
	@$(ALONE)

docs: $(BUILD)/installed
	$(BUILD)/venv/bin/sphinx-build -q -W --keep-going -b html docs $(BUILD)/docs
	@echo "The documentation is $(BUILD)/docs/index.html."

# The random histories go on for this many seconds each: `make stress CIVIS_FUTURES_STRESS=7200`.
stress: export CIVIS_FUTURES_STRESS ?= 900
stress: $(BUILD)/installed
	@$(PYTEST) -m stress --timeout=$$((3600 + CIVIS_FUTURES_STRESS))

# Takes some 20 minutes on two cores, and writes docs/benchmarks.md.
bench: export BENCHMARKS_PAGE = $(CURDIR)/docs/benchmarks.md
bench: build/installed build/venv/bench
	@$(PYTEST)/benchmarks -q -m bench --timeout=1200 \
		-o faulthandler_timeout=0

# Takes the pictures of the documentation anew; needs chromium.
screenshots: .venv/develop
	.venv/bin/python docs/screenshots.py

# An editable .venv with everything in it, to run single tests and tools from.
develop: .venv/develop

format: build/venv/ready
	build/venv/bin/ruff check -q --fix --exit-zero .
	build/venv/bin/ruff format -q .

# Writes constraints.txt anew, with the newest releases: one file for all Pythons that we support.
lock: build/uv/bin/uv
	build/uv/bin/uv pip compile -q --upgrade --universal --python-version 3.11 --no-annotate \
		--custom-compile-command 'make lock' --all-extras $(GROUPS) --group build --group bench \
		pyproject.toml -o constraints.txt

clean:
	rm -rf build docs/_build .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find civis_futures civis_joblib tests docs -name __pycache__ -prune -exec rm -rf {} +

# --- environments --------------------------------------------------------------------------------

# What was made with another Python than the one that is named is made anew.
define NEW_VENV
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	"civis_futures needs Python 3.11 or later, and $(PYTHON) is " + sys.version.split()[0] + \
	". Name another one: make $(MAKECMDGOALS) PYTHON=...")'
$(PYTHON) -m venv --clear $(@D)
endef
OTHER_PYTHON = $(and $(findstring $(origin PYTHON),command line environment),$(wildcard $(1)),\
	$(filter-out $(shell $(1)/bin/python -V 2>&1),$(shell $(PYTHON) -V)))

.PHONY: $(foreach venv,.venv $(BUILD)/venv,$(if $(call OTHER_PYTHON,$(venv)),$(venv)/pyvenv.cfg))
.venv/pyvenv.cfg $(BUILD)/venv/pyvenv.cfg build/uv/pyvenv.cfg:
	$(NEW_VENV)

# pip comes first: that of Python itself may know neither groups nor constraints of a build.
.venv/pip $(BUILD)/venv/pip: %/pip: %/pyvenv.cfg constraints.txt
	$*/bin/python $(PIP) install -q -c constraints.txt pip
	@touch $@

.venv/demo: pyproject.toml .venv/pip
	.venv/bin/python $(PIP) install $(EXACTLY) -e '.[local]'
	@touch $@

.venv/develop: pyproject.toml .venv/pip
	.venv/bin/python $(PIP) install $(EXACTLY) -e '.$(EXTRAS)' $(GROUPS)
	@touch $@ .venv/demo

ifdef RESOLUTION
# uv can choose the lowest versions, where pip only knows the newest.
UV := build/uv/bin/uv
CHOOSE := --resolution $(RESOLUTION) $(if $(PRE),--prerelease allow)
INSTALL := $(UV) pip install -q -p $(BUILD)/venv/bin/python --only-binary :all: $(CHOOSE)
WHEEL := $(UV) build -q -p $(BUILD)/venv/bin/python --wheel $(CHOOSE) -o
GROUPS += -r pyproject.toml --all-extras
$(BUILD)/venv/ready: $(UV) $(BUILD)/venv/pyvenv.cfg
else
# Most of what is installed is never imported; what is, Python compiles when it is.
INSTALL := build/venv/bin/python $(PIP) install --no-compile $(EXACTLY)
WHEEL := build/venv/bin/python $(PIP) wheel $(EXACTLY) --no-deps -w
$(BUILD)/venv/ready: $(BUILD)/venv/pip
endif

$(BUILD)/venv/ready: pyproject.toml
	$(INSTALL) $(GROUPS)
	@touch $@

build/venv/bench: pyproject.toml build/venv/ready
	$(INSTALL) --group bench
	@touch $@

$(BUILD)/installed: $(SOURCES) pyproject.toml README.md LICENSE $(BUILD)/venv/ready
	rm -rf $(BUILD)/dist
	$(WHEEL) $(BUILD)/dist .
	$(INSTALL) "$$(echo $(BUILD)/dist/*.whl)$(EXTRAS)"
	$(INSTALL) --force-reinstall --no-deps $(BUILD)/dist/*.whl
	@touch $@

build/uv/bin/uv: build/uv/pyvenv.cfg
	build/uv/bin/python $(PIP) install -q --upgrade uv
	@touch $@
