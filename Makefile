# The two commands of a new machine are `make quickstart` and `make test`; each sets up what it needs in .venv.

PYTHON ?= python3
VENV ?= .venv
# On Linux, PyPI's torch brings several GB of CUDA libraries along. Without an NVIDIA GPU the CPU build will do: give its
# index, as PyTorch's installation page says it, with TORCH="torch==2.13.0 --index-url …".
TORCH ?= torch==2.13.0
MINUTES ?= 5
ARGS ?=

# llama.cpp's AMX kernels crash when GCC compiles them (serving/llamacpp.py): they are left out where the compiler has them.
NO_AMX := $(shell echo __AMX_INT8__ | $(CXX) -march=native -E -P -x c++ - 2>/dev/null | grep -qx 1 && echo -mno-amx-int8)

BIN := $(VENV)/bin
VSCODE := editor-plugins/vscode
CODE_SERVER ?= .cache/code-server
export CODELM_CODE_SERVER_DIR ?= $(abspath $(CODE_SERVER))

.DEFAULT_GOAL := help
.PHONY: help quickstart test lint format vscode e2e-tools bench clean

help: ## this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /  make \1\t/' | expand -t 22

# One stamp: what is installed follows pyproject.toml. cmake and ninja come as wheels into llama.cpp's own build.
$(BIN)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=24"
	$(BIN)/python -m pip install --quiet $(TORCH)
	CFLAGS="$(CFLAGS) $(NO_AMX)" CXXFLAGS="$(CXXFLAGS) $(NO_AMX)" $(BIN)/python -m pip install --quiet --editable ".[train,serve,dev]"
	@touch $@

quickstart: $(BIN)/.installed ## a folder of code in, a served completion out (MINUTES=5, ARGS="--corpus DIR")
	$(BIN)/codelm quickstart --minutes $(MINUTES) $(ARGS)

test: $(BIN)/.installed ## every test that this machine can run; says what it skips and why (ARGS for pytest)
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder --max-worker-restart 0 $(ARGS)
	@if command -v npm >/dev/null; then cd $(VSCODE) && npm ci --silent && npm test; \
	else echo "skipped: the VS Code extension's own tests need Node.js 20 with npm"; fi

lint: $(BIN)/.installed ## ruff, mypy, import contracts
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(BIN)/.installed ## ruff's fixes
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

vscode: ## the VS Code extension as a .vsix
	cd $(VSCODE) && npm ci && npm run package

e2e-tools: ## a VS Code for the end-to-end tests (wants Node.js 20, g++, make, ripgrep; chromium is up to you)
	scripts/install_code_server.sh $(CODE_SERVER)

bench: $(BIN)/.installed ## training throughput and quality against plain baselines
	$(BIN)/python benchmarks/train_cpu.py

clean: ## build products, not runs
	rm -rf build dist .cache .mypy_cache .pytest_cache .ruff_cache .import_linter_cache $(VSCODE)/node_modules $(VSCODE)/out
