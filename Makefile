# One word each. `make demo` and `make test` do everything on a fresh machine.
PYTHON ?= python3
BIN := .venv/bin
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: install demo demo-vision test lint types layers docs faults bench clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

demo: install
	$(BIN)/ganpo lab demo

demo-vision: install
	$(BIN)/ganpo lab demo-vision

test: install lint types layers
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: install
	$(BIN)/ruff check .

types: install
	$(BIN)/mypy

layers: install
	$(BIN)/lint-imports

docs: install
	$(BIN)/python -m docs.generate

faults: install
	$(BIN)/ganpo faults --json runs/faults/faults.json

bench: install
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[bench]'
	for shape in S V; do $(BIN)/ganpo bench --shape $$shape --against trl --json runs/bench/$$shape.json || exit 1; done

clean:
	rm -rf .venv runs build dist
