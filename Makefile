# The two commands are `make demo` and `make test`; both work in a fresh clone.
#
# .venv        the project as it is being edited: for the demo, and for working on it
# build/venv   the built wheel, and what is needed to test it: for `make test`

PYTHON ?= python3
SOURCES := $(shell find civis_futures civis_joblib -type f -not -name '*.pyc') pytest_civis_futures.py
PIP := -m pip --disable-pip-version-check install -q
# Not from the root of the project, where `import civis_futures` would find the sources.
PYTEST := cd build && venv/bin/pytest -c ../pyproject.toml ../tests

.NOTPARALLEL:
.PHONY: demo test style types unit docs stress bench develop format clean

demo: .venv/demo
	.venv/bin/python docs/examples/quickstart.py

test: style types docs unit

style: build/venv/ready
	build/venv/bin/ruff format --check -q .
	build/venv/bin/ruff check -q .

types: build/installed
	build/venv/bin/mypy --no-error-summary

# The folders are named, since coverage may take what is in site-packages for somebody else's.
unit: build/installed
	@site=$$(build/venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'); \
	$(PYTEST) -q -n 3 --cov=$$site/civis_futures --cov=$$site/civis_joblib --cov-config=../pyproject.toml

docs: build/installed
	build/venv/bin/sphinx-build -q -W --keep-going -b html docs build/docs
	@echo "The documentation is build/docs/index.html."

# Exit code 5 of pytest: there was no test to run.
stress: build/installed
	@$(PYTEST) -m stress --timeout=3600 || { [ $$? -eq 5 ] && echo "There are none yet."; }

# Takes some 20 minutes on two cores, and writes docs/benchmarks.md.
bench: export BENCHMARKS_PAGE = $(CURDIR)/docs/benchmarks.md
bench: build/installed build/venv/bench
	@$(PYTEST)/benchmarks -q -m bench --timeout=1200 \
		-o faulthandler_timeout=0

# An editable .venv with everything in it, to run single tests and tools from.
develop: .venv/develop

format: build/venv/ready
	build/venv/bin/ruff check -q --fix --exit-zero .
	build/venv/bin/ruff format -q .

clean:
	rm -rf build docs/_build .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find civis_futures civis_joblib tests docs -name __pycache__ -prune -exec rm -rf {} +

# --- environments --------------------------------------------------------------------------------

define NEW_VENV
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	"civis_futures needs Python 3.11 or later, and $(PYTHON) is " + sys.version.split()[0] + \
	". Name another one: make $(MAKECMDGOALS) PYTHON=...")'
$(PYTHON) -m venv $(dir $(@D))
endef

.venv/bin/python build/venv/bin/python:
	$(NEW_VENV)

.venv/demo: pyproject.toml | .venv/bin/python
	.venv/bin/python $(PIP) -e '.[local]'
	@touch $@

.venv/develop: pyproject.toml | .venv/bin/python
	.venv/bin/python $(PIP) --upgrade 'pip>=25.1'
	.venv/bin/python $(PIP) -e '.[joblib,local,progress]' --group lint --group test --group docs
	@touch $@ .venv/demo

# Dependency groups need pip 25.1.
build/venv/ready: pyproject.toml | build/venv/bin/python
	build/venv/bin/python $(PIP) --upgrade 'pip>=25.1'
	build/venv/bin/python $(PIP) --group lint --group test --group docs
	@touch $@

build/venv/bench: pyproject.toml build/venv/ready
	build/venv/bin/python $(PIP) --group bench
	@touch $@

build/installed: $(SOURCES) pyproject.toml README.md LICENSE build/venv/ready
	rm -rf build/dist
	build/venv/bin/python -m pip --disable-pip-version-check wheel -q --no-deps -w build/dist .
	build/venv/bin/python $(PIP) "$$(echo build/dist/*.whl)[joblib,local,progress]"
	build/venv/bin/python $(PIP) --force-reinstall --no-deps build/dist/*.whl
	@touch $@
