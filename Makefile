# Works with nothing but Python (3.10 or newer) and make: the first target you run makes the virtual environment.
PYTHON ?= python3
VENV ?= .venv
PY = $(VENV)/bin/python

.PHONY: help demo test coverage check bench

help:  ## this list
	@grep -E '^[a-z]+:.*##' Makefile | sed 's/:.*##/\t/'

demo: $(VENV)/.installed  ## render, pretrain, probe, predict; writes runs/demo/report.html
	$(PY) -m openvjepa demo

test: $(VENV)/.installed  ## the tests
	$(PY) -m pytest -n auto --dist worksteal

coverage: $(VENV)/.installed  ## the tests, with the coverage that pyproject.toml asks for (a fifth to a half slower)
	$(PY) -m pytest -n auto --dist worksteal --cov --cov-report=

check: $(VENV)/.installed  ## lint, formatting, types, import directions
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m pyright --pythonpath $(PY)
	$(VENV)/bin/lint-imports

bench: $(VENV)/.installed  ## what this machine can do: peak, training step, inference, data
	$(PY) -m openvjepa bench --quick

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@
