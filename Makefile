# The two commands of the README, and what developers add to them.
#
#     make demo    install into .venv, draw, measure, steer, weaken, write runs/demo/index.html
#     make test    install into .venv, run every test
#     make test-oldest   the same with the oldest supported diffusers and transformers, in .venv-oldest
#     make test-hub HRV=…   measure Stable Diffusion 1.4 and compare with the published arrays, a clone of SNU-DRL/HRV
#     make check   formatting, lint, types
#     make docs    write docs/cli.md from the commands themselves
#     make site    the pages of docs/ as a site in site/

VENV ?= .venv
OUT ?= runs/demo
CONSTRAINTS ?= constraints.txt
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := $(VENV)/bin
.DEFAULT_GOAL := help
.PHONY: help demo test test-oldest test-hub check docs site clean

help:
	@sed -n 's/^#     //p' Makefile

demo: $(VENV)/.plots
	$(BIN)/headwise demo --out $(OUT)

test: $(VENV)/.test
	$(BIN)/python -m pytest -n auto --dist loadfile $(ARGS)

test-oldest:
	@mkdir -p .venv-oldest
	@grep -vE '^(diffusers|transformers|accelerate|huggingface_hub|tokenizers)==' constraints.txt \
	  | cat - constraints-oldest.txt > .venv-oldest/constraints.txt
	$(MAKE) test VENV=.venv-oldest CONSTRAINTS=.venv-oldest/constraints.txt

test-hub: $(VENV)/.test
	HEADWISE_HRV="$(HRV)" $(BIN)/python -m pytest tests/test_real_models.py $(ARGS)

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(VENV)/.test
	$(BIN)/python docs/make_cli.py

site: $(VENV)/.docs
	PYTHONPATH=docs $(BIN)/python -m zensical build --strict --clean

clean:
	rm -rf $(VENV) build dist site .cache

# One stamp per extra, so that nothing is installed twice and a changed requirement is installed again.
$(VENV)/.%: pyproject.toml $(CONSTRAINTS) | $(BIN)/python
	$(BIN)/python -m pip install --constraint $(CONSTRAINTS) --editable ".[$*]"
	@touch $@

$(BIN)/python:
	@test -n "$(PYTHON)" && "$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Headwise needs Python 3.11 or newer; found: $$("$(PYTHON)" --version 2>&1 || echo none)." >&2; \
	  echo "Install one (Debian: apt install python3 python3-venv), or name it: make demo PYTHON=/path/to/python3.12" >&2; \
	  exit 1; }
	@"$(PYTHON)" -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "Python's venv module is incomplete. On Debian: apt install python3-venv" >&2; exit 1; }
