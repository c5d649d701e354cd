# The same targets that people and CI call.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PORT   ?= 8000
WORKERS ?= 2

.PHONY: serve setup smoke compiled test test-all check format bench bench-quick docs lock wheel

serve: $(VENV)/.run
	$(BIN)/cupola serve --port $(PORT)

# Only what serving needs.
$(VENV)/.run: requirements.lock pyproject.toml scripts/install.py
	$(PYTHON) scripts/install.py $(VENV) -r requirements.lock --editable .
	touch $@

# The rest: training, exporting, testing, checking, documenting. Tests start Python hundreds of
# times: compile all packages here if Python itself is told not to save what it compiles.
$(VENV)/.dev: requirements-dev.lock $(VENV)/.run
	$(if $(PYTHONDONTWRITEBYTECODE),UV_COMPILE_BYTECODE=1) $(PYTHON) scripts/install.py $(VENV) -r requirements-dev.lock
	touch $@

setup: $(VENV)/.dev

smoke: setup
	$(BIN)/python -m pytest -q -x --ignore tests/nn/test_distributed.py tests/test_architecture.py tests/nn tests/config

# Python that is told not to save what it compiles would compile cupola in each of some hundred
# processes that the tests start.
compiled: setup
	$(if $(PYTHONDONTWRITEBYTECODE),$(BIN)/python -m compileall -q -j 0 src tests)

test: compiled
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile

test-all: compiled
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile -m "slow or not slow"

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_architecture.py

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The ratios of docs/measured.md, each with its limit, in under three minutes on two cores.
bench-quick: setup
	$(BIN)/python bench/quick.py $(if $(JSON),--json $(JSON))

bench: setup
	for script in bench/*.py; do $(BIN)/python $$script || exit 1; done

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# Exact versions from pyproject.toml; UPGRADE=--upgrade takes the newest.
lock: $(VENV)/.run
	$(PYTHON) scripts/lock.py $(VENV) $(UPGRADE)

# Builds the wheel into dist/ and uses it in an empty environment.
wheel: setup
	$(BIN)/python scripts/check_wheel.py
