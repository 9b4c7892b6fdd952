# Every target sets itself up: a fresh clone needs `make demo` or `make test` and nothing before.
# The newest Python from 3.11 to 3.13 that can make virtual environments; a name on PATH may be a shim of nothing.
PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3 python; do \
	$$python -c 'import sys, ensurepip, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null \
	&& echo $$python && break; done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
export NO_ALBUMENTATIONS_UPDATE := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all lint types bench clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

setup: $(STAMP)  ## virtual environment with the versions of constraints.txt

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Expected Python 3.11, 3.12 or 3.13 with venv, found none: apt-get install python3.12 python3.12-venv, or make PYTHON=..."; exit 1; }
	@echo "Setting up $(VENV), once: about 3 GB to download and 5 GB on disk with PyTorch's CUDA libraries; two minutes on a fast line."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -c constraints.txt -e '.[dev]'
	@touch $@

demo test test-all: export OMP_NUM_THREADS := 1  # with tensors this small, threads that wait for one another cost minutes
demo: $(STAMP)  ## a small model sees synthetic rooms, is fine-tuned on them, and is scored: minutes on a CPU
	@echo "Scenes, training and scores: four minutes on two CPU cores. Results go to logs/demo_fine_tune/."
	$(BIN)/python src/train.py experiment=demo_fine_tune

test: $(STAMP)  ## lint, types and the fast tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q -n 2 --dist worksteal

test-all: test  ## and the slow tests
	$(BIN)/python -m pytest -q -m slow

lint: $(STAMP)  ## ruff, with its fixes applied
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(STAMP)  ## mypy
	$(BIN)/mypy

bench: $(STAMP)  ## speed of the scan, the loader, operators, blocks and whole networks on this machine
	$(BIN)/python src/benchmark.py

clean:  ## remove the virtual environment, caches of tools and built packages; logs and data stay
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
