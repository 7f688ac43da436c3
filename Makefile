# make demo: adapt between two synthetic domains, from nothing to a table. make test: what has to pass before a change goes in.
# make quick: the same without the tests that train or start processes, an answer in two minutes.
# make docs: the documentation as HTML, in docs/_build. make lock: renew requirements/lock.txt.
# All make .venv first (PYTHON=… chooses its Python, 3.10 to 3.13) and renew it when a setup.cfg changes; all but demo add to it
# what the tests need.

USABLE = import ensurepip, sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11 python3.10; do \
	$$python -c '$(USABLE)' 2>/dev/null && echo $$python && break; done)
BIN = .venv/bin
# a file's tests share fixtures; all tests get one worker more than cores, as some wait for processes that they start
PYTEST = $(BIN)/python -m pytest -q --dist loadfile --no-loadscope-reorder -n
PLUGINS = $(wildcard plugins/*/setup.cfg)

.PHONY: demo test quick pytest-test pytest-quick lint docs lock clean

demo: .venv/base
	$(BIN)/python -m reidx demo

# the type checker needs one core, so the tests begin next to it
test quick: .venv/installed
	@$(MAKE) --no-print-directory -j2 lint pytest-$@

pytest-test:
	$(PYTEST) $$(($$(getconf _NPROCESSORS_ONLN) + 1))

pytest-quick:
	$(PYTEST) auto --quick --ignore tests/test_matrix.py

lint: .venv/installed
	$(BIN)/ruff check
	$(BIN)/mypy reidx $(filter-out %.egg-info,$(wildcard plugins/*/reidx_*))

docs: .venv/installed
	$(BIN)/sphinx-build -W --keep-going -n -q docs docs/_build

# --upgrade, as in `make lock UPGRADE=--upgrade`, replaces all versions; without it only those that no longer fit
lock: .venv/installed
	$(BIN)/python -m pip install -q uv
	$(BIN)/uv pip compile -q --universal --python-version 3.10 --no-annotate --custom-compile-command 'make lock' \
	$(UPGRADE) --extra test setup.cfg -o requirements/lock.txt

clean:
	rm -rf .venv docs/_build build dist *.egg-info plugins/*/build plugins/*/*.egg-info .mypy_cache .ruff_cache .pytest_cache

# the versions of the lock file, or the newest ones where the index lacks one of those
define install
	$(BIN)/python -m pip install -c requirements/lock.txt $(1) || { \
	echo "make: the versions of requirements/lock.txt cannot be installed here; trying the newest ones" >&2; \
	$(BIN)/python -m pip install $(1); }
	@touch $@
endef

.venv/installed: .venv/base
	$(call install,-e '.[test]')

# one pip call for the project and all plugins, so that one resolution fits them all
.venv/base: setup.cfg pyproject.toml requirements/lock.txt $(PLUGINS)
	@$(or $(PYTHON),false) -c '$(USABLE)' || { echo "make: Python 3.10 to 3.13 with venv is needed \
	(found: '$(PYTHON)'); name one with PYTHON=/path/to/python3.12" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(call install,-e . $(foreach plugin,$(PLUGINS),-e ./$(dir $(plugin))))
