PYTHON ?= python3
PY := .venv/bin/python

.PHONY: train test venv lint types

venv: .venv/.ready

.venv/.ready: requirements.txt
	$(PYTHON) -c "import sys; sys.exit(0 if sys.version_info >= (3, 11) else 'mmrep needs Python >= 3.11: make PYTHON=python3.12 venv')"
	test -x $(PY) || $(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch .venv/.ready

train: venv
	$(PY) -m experiments.train emoji

test: venv
	$(PY) -m pytest -q -n auto --maxprocesses 4 --dist loadgroup

lint: venv
	$(PY) -m ruff check . && $(PY) -m ruff format --check .

types: venv
	$(PY) -m mypy
