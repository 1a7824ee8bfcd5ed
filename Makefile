PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# A process for each core, and one thread for each process. A file's tests stay together: they share what they measured.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile

.PHONY: demo check test docs clean lint matrix

demo: $(VENV)/.installed
	$(BIN)/unvanish check examples/deep_sigmoid.py --exit-zero

check: lint
	$(PYTEST) -m 'not slow'

test: lint
	$(PYTEST)

# Warnings are errors. A part of the tests, too.
docs: $(VENV)/.installed-dev
	$(BIN)/python docs/website/make.py

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --threads --pythonpath $(BIN)/python
	$(BIN)/lint-imports

# The oldest and the newest torch and Python, each in an environment of its own: hours and gigabytes, so no part of test.
matrix:
	$(PYTHON) -m tools.matrix

clean:
	rm -rf $(VENV)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# An installation is repeated only when what it depends on has changed. numpy: torch warns at its import without it.
$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo 'installing torch and unvanish into $(VENV): about a minute, and longer where torch has to be downloaded'
	$(PIP) --editable . numpy
	touch $@

# The pip of a new environment may be older than dependency groups, which came with 25.1.
$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) 'pip>=25.1'
	$(PIP) --editable '.[dks,lab,pictures,ray,workers]' --group dev --group docs
	touch $@ $(VENV)/.installed
