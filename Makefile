# `make help` lists what there is. Everything runs in .venv, which the first call sets up.
#
#   PYTHON    the interpreter that .venv is made from        make book PYTHON=python3.12
#   PIP_ARGS  passed to pip                                  make book PIP_ARGS=--prefer-binary
#   JOBS      test processes                                 make test JOBS=4
#   TESTS     what to test                                   make test TESTS=tests/test_data.py
#   CHAPTER   one chapter instead of all                     make run CHAPTER=multitask
#   BENCH     some benchmarks instead of all                 make bench BENCH="W1 clients"
#   PAPERS    some experiments instead of all                make papers PAPERS="heart ditto"

PYTHON ?= python3
PIP_ARGS ?=
JOBS ?= 2
TESTS ?=
CHAPTER ?=
PAPERS ?=
BENCH ?=

ifeq ($(OS),Windows_NT)
BIN := .venv/Scripts
else
BIN := .venv/bin
endif
STAMP := .venv/fedlab-ready
PAGE := _build/html/index.html

.DEFAULT_GOAL := help
.PHONY: help book pdf test status mutants lab run papers bench bench-peers lint format screenshots clean setup

help: ## list these commands
	@echo "Usage: make COMMAND"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' Makefile | while IFS='|' read -r name what; do \
		printf '  %-12s %s\n' "$$name" "$$what"; done

setup: $(STAMP) ## the environment alone: .venv with the pinned packages

$(STAMP): requirements.txt pyproject.toml
	@test -x $(BIN)/python || test -x $(BIN)/python.exe || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) --no-deps -e .
	@touch $@

book: $(STAMP) ## render the book and say where to open it
	@$(BIN)/jupyter-book build . -W -n --keep-going -q > /dev/null || { rm -rf _build/.doctrees; exit 1; }
	@echo "The book is rendered. Open this file in a browser: $(CURDIR)/$(PAGE)"

pdf: book ## the book as one PDF, printed by Chromium
	@$(BIN)/python book/pdf.py

test: $(STAMP) ## unit tests, every notebook against its stored outputs, the rendered pages
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadscope $(TESTS)

status: $(STAMP) ## compare every chapter, and write the status page of the book
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadscope --status book

mutants: $(STAMP) ## plant bugs, one at a time, and report those that no test catches
	@$(BIN)/python tests/mutants.py

lab: export JUPYTER_CONFIG_PATH := $(CURDIR)/.jupyter
lab: $(STAMP) ## open the book in JupyterLab
	@$(BIN)/python -m jupyter trust book/*.ipynb
	@$(BIN)/python -m jupyter lab --allow-root --notebook-dir=. book/index.md

run: $(STAMP) ## execute chapters again and store their outputs (all, or CHAPTER=multitask)
	@$(BIN)/python book/run.py $(CHAPTER)

papers: $(STAMP) ## hold the package against published numbers, and write that page of the book
	@$(BIN)/python benchmarks/papers/run.py $(PAPERS)

bench: $(STAMP) ## time the simulator, and write that page of the book
	@$(BIN)/python benchmarks/speed/run.py $(BENCH)

bench-peers: $(STAMP) ## the same beside other libraries, each set up in an environment under .peers
	@$(BIN)/python benchmarks/speed/peers.py
	@$(BIN)/python benchmarks/speed/run.py peers

lint: $(STAMP) ## style of code and notebooks, types
	@$(BIN)/python -m ruff check .
	@$(BIN)/python -m ruff format --check .
	@$(BIN)/python -m mypy
	@$(BIN)/python book/run.py --check

format: $(STAMP) ## bring code and notebooks into the project's style
	@$(BIN)/python -m ruff check --fix .
	@$(BIN)/python -m ruff format .

screenshots: book ## photograph every page (light and dark, 1280 and 390 pixels wide) into _build/screenshots
	@$(BIN)/python tests/browser.py

clean: ## remove what was rendered and cached; .venv stays
	rm -rf _build .pytest_cache .ruff_cache .mypy_cache *.egg-info book/.ipynb_checkpoints
	find fedlab_helpers tests book -name __pycache__ -type d -exec rm -rf {} +
