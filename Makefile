PYTHON ?= python3
PY := .venv/bin/python

.PHONY: train test test-all test-part venv lint types

venv: .venv/.ready

.venv/.ready: requirements.txt
	$(PYTHON) -c "import sys; sys.exit(0 if sys.version_info >= (3, 11) else 'mmrep needs Python >= 3.11: make PYTHON=python3.12 venv')"
	test -x $(PY) || $(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch .venv/.ready

train: venv
	$(PY) -m experiments.train emoji

# What a change calls for, at most six minutes on two cores (tests/selection.py); test-all: everything.
test: venv
	$(PY) tests/run.py

test-all: venv
	$(PY) tests/run.py --all

# The part of all tests that continuous integration takes at this commit.
test-part: venv
	$(PY) tests/run.py --part commit/8

lint: venv
	$(PY) -m ruff check . && $(PY) -m ruff format --check .

types: venv
	$(PY) -m mypy
