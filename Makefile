# Isocenter: `make demo` shows it working, `make test` proves it. Both set up everything they need in .venv.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
RUNTIME_STAMP := $(VENV)/.installed
DEV_STAMP     := $(VENV)/.installed-dev

.PHONY: help install demo test check format peers bench lock clean

help: ## Show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/'

install: $(RUNTIME_STAMP) ## Set up .venv with the command `isocenter`

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Isocenter needs Python 3.11 or newer; found $$($(PYTHON) --version). Try: make install PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(RUNTIME_STAMP): requirements.lock pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	@touch $@

$(DEV_STAMP): requirements-dev.lock $(RUNTIME_STAMP)
	$(BIN)/python -m pip install --quiet --requirement requirements-dev.lock
	@touch $@

demo: install ## A virtual scanner streams an exam; watch it become DICOM
	$(BIN)/isocenter demo

check: $(DEV_STAMP) ## Style, types, import contracts, size budget
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tests.architecture.budget

test: $(DEV_STAMP) peers ## All tests
	$(BIN)/python -m pytest

format: $(DEV_STAMP) ## Format the code and mend what can be mended by itself
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

peers: ## Install the programs we are tested against (Debian, as root)
	@sh tests/peers.sh

bench: $(DEV_STAMP) ## Print the benchmark tables
	$(BIN)/python -m tests.benchmarks

lock: $(DEV_STAMP) ## Write the lock files anew from what is installed
	$(BIN)/python -m tests.architecture.lock

clean: ## Remove the environment and everything built
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
