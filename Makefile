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

# On a busy machine simulated devices now and then wait for each other for ever, and XLA aborts: such a test, and none that failed, is tried again.
test: venv
	$(PY) -m pytest -q -n auto --maxprocesses 4 --dist worksteal --reruns 2 --only-rerun "worker .* crashed"

lint: venv
	$(PY) -m ruff check . && $(PY) -m ruff format --check .

types: venv
	$(PY) -m mypy
