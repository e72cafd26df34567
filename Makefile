# make demo      simulate jets, train plain and with GSEAL, compare under boosts: results in demo_output/
# make test      the test suite without the slow tests; make test-all: with them
# make test-schedulers   scans on a Slurm or HTCondor that runs here, whose commands are on PATH
# make lint      ruff and mypy
# make clean     remove the environment and everything that was made
#
# Each makes the environment .venv first. To choose what goes into it (after `make clean` if there is one already):
#   make demo PYTHON=python3.12                                  another Python
#   make demo CONSTRAINTS=                                       the newest PyTorch that pip finds
#   make demo CONSTRAINTS= VENV_ARGS=--system-site-packages      your own PyTorch
#   make demo PIP_ARGS="--index-url https://..."                 your own package index
#   make demo DEMO_ARGS="--gpus 0 --jets 20000"                  options of benchmarks/demo.py

PYTHON ?= python3
VENV ?= .venv
VENV_ARGS ?=
CONSTRAINTS ?= constraints.txt
PIP_ARGS ?=
DEMO_ARGS ?=
# two processes: the tests are many and small
PYTEST_ARGS ?= -n 2

BIN := $(VENV)/bin
INSTALL = $(BIN)/python -m pip install $(PIP_ARGS) $(addprefix -c ,$(CONSTRAINTS))

.PHONY: demo test test-all test-schedulers lint clean
.DELETE_ON_ERROR:

demo: $(VENV)/.demo
	$(BIN)/python benchmarks/demo.py $(DEMO_ARGS)

test: $(VENV)/.test
	$(BIN)/python -m pytest -m "not slow and not gpu and not scheduler" $(PYTEST_ARGS)

test-all: $(VENV)/.test
	$(BIN)/python -m pytest -m "not scheduler" $(PYTEST_ARGS)

test-schedulers: $(VENV)/.test
	$(BIN)/python -m pytest -m scheduler

lint: $(VENV)/.lint
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

$(VENV)/.python:
	$(PYTHON) -m venv $(VENV_ARGS) $(VENV)
	touch $@

# Editable, so that only a change of the dependencies needs a new installation.
$(VENV)/.demo: pyproject.toml $(CONSTRAINTS) | $(VENV)/.python
	$(INSTALL) -e ".[simulate]"
	touch $@

$(VENV)/.test: pyproject.toml $(CONSTRAINTS) | $(VENV)/.python
	$(INSTALL) -e ".[simulate,test]"
	touch $@

$(VENV)/.lint: pyproject.toml $(CONSTRAINTS) | $(VENV)/.python
	$(INSTALL) -e ".[lint]"
	touch $@

clean:
	rm -rf $(VENV) demo_output build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
