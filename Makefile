# Every target sets up what it needs: a virtual environment in .venv, filled under constraints.txt and brought up to date
# when constraints.txt or pyproject.toml change. ARGS="..." is handed to what a target runs: make test ARGS="-k writer -x".

PYTHON ?= python3
ARGS ?=

BIN := .venv/bin
DEV := .venv/.ready-dev
PEERS := .venv/.ready-peers
BENCH := .venv/.ready-bench
PIP_INSTALL = $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
.PHONY: help demo test test-keras test-slurm fuzz bench lint format clean

help: ## Say what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(DEV) ## Train on MNIST, kill the job twice, and prove that nothing was lost
	@$(BIN)/python examples/demo.py $(ARGS)

test: $(DEV) $(PEERS) ## Run the tests
	@$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile $(ARGS)

test-keras: $(DEV) $(PEERS) ## Continue model.fit from any batch, and audit scripts, on every backend; takes long
	@$(BIN)/python tests/keras/matrix.py $(ARGS)
	$(if $(ARGS),,$(BIN)/python -m pytest tests/auditing/keras --every-backend)

fuzz: $(DEV) $(PEERS) ## Try 20,000 mutants of every format's files; takes hours
	@$(BIN)/python -m pytest tests/formats -k mutants --fuzz 20000 $(ARGS)

test-slurm: $(DEV) ## Interrupt jobs on a real Slurm in every way (as root; installs Slurm if it is missing)
	@$(BIN)/python tests/slurm/real.py $(ARGS)

bench: $(DEV) $(PEERS) $(BENCH) ## Measure speed against other checkpointers
	@$(BIN)/python bench/run.py $(ARGS)

lint: $(DEV) ## Check style, types and the layers (ruff, mypy, import-linter)
	@$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy --strict
	$(BIN)/lint-imports

format: $(DEV) ## Rewrite the code in the project's style
	@$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean: ## Remove what make made: .venv, caches, the demo's runs
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist runs/demo
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The lock keeps two makes started at once from installing into each other's environment. pip is asked for in place of a mere
# look for .venv, since a venv made where ensurepip is missing has a python and no pip.
$(DEV): constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
		echo "milepost needs Python 3.11 or newer; $(PYTHON) is older. Say which: make PYTHON=python3.12 ..." >&2
		exit 1
	}
	mkdir -p .venv
	exec 9>.venv/.lock
	flock 9
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv .venv
	echo "bringing .venv up to date (the first time takes a minute)" >&2
	$(PIP_INSTALL) pip
	$(PIP_INSTALL) --build-constraint constraints.txt -e '.[all]' --group dev
	touch $@

# The frameworks whose files the tests read are large: only what needs them installs them.
$(PEERS): $(DEV)
	@exec 9>.venv/.lock
	flock 9
	echo "installing the frameworks that tests compare with (some minutes the first time)" >&2
	$(PIP_INSTALL) --group peers
	touch $@

$(BENCH): $(DEV)
	@exec 9>.venv/.lock
	flock 9
	$(PIP_INSTALL) --group bench
	touch $@
