# The README's two commands are `make run` and `make test`; each sets up .venv by itself.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
ARGS ?=

.PHONY: run test check test-slow evidence clean

run: .venv/run.ready
	$(BIN)/python app.py $(ARGS)

test: .venv/test.ready
	$(BIN)/python -m pytest $(ARGS)

test-slow: .venv/test.ready
	$(BIN)/python -m pytest --slow -m slow $(ARGS)

check: .venv/test.ready
	$(BIN)/ruff check .
	$(BIN)/mypy

evidence: .venv/run.ready
	$(BIN)/python -m engine evidence $(ARGS)

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) and "Quantscape needs Python 3.11; set PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv .venv

.venv/run.ready: .venv/bin/python requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

.venv/test.ready: .venv/bin/python requirements.txt requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@ .venv/run.ready

clean:
	rm -rf .venv build dist *.egg-info
