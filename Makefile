# Everything that a person or a machine does with this checkout. `make` alone prints the list.
#
#   BACKEND=cpu|cuda|metal|vulkan   what llama.cpp is compiled for (found out by itself; remembered until changed)
#   PYTHON=python3.12               the Python to build .venv with, 3.11 or newer
#   ARGS="…"                        more arguments for myllm serve or pytest: make test ARGS="-k scheduler"

.DEFAULT_GOAL := help
VENV := .venv
BIN := $(VENV)/bin
BACKEND ?= auto

ifeq ($(origin PYTHON),undefined)
PYTHON := $(shell for p in $(BIN)/python python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)
PYTHON := $(or $(PYTHON),python3)
endif

define INSTALL
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 || { \
	echo "myllm: Python 3.11 or newer is needed, and $(PYTHON) --version says: $$($(PYTHON) --version 2>&1 | head -n 1)"; \
	echo "myllm: install one, or name it: make serve PYTHON=python3.12"; exit 1; }
@$(PYTHON) scripts/install.py --backend $(BACKEND)
endef

.PHONY: help install install-dev clients serve test check fuzz bench format wheel clean

help: ## print this list
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

install: ## make .venv and compile llama.cpp for this machine (the other targets do it when needed)
	$(INSTALL)

install-dev:
	$(INSTALL) --dev

serve: install ## install if needed, then serve the bundled model `tiny` on port 8000
	@$(BIN)/myllm serve --model tiny $(ARGS)

clients: install-dev
	@if [ "$(CLIENTS)" != no ]; then $(BIN)/python scripts/install_clients.py; fi

test: clients ## install if needed, then run the tests (CLIENTS=no: without the real clients of others)
	@$(BIN)/python -m pytest $(ARGS)

check: install-dev ## ruff, mypy --strict, and the laws of the house
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_house.py

fuzz: install-dev ## send the server what schemathesis thinks of, and compare its answers with /openapi.json (installs it once)
	$(BIN)/python scripts/fuzz.py $(ARGS)

bench: install $(VENV)/bench.gguf ## measure throughput and latency (LLAMA_SERVER=path: beside llama-server)
	$(BIN)/python bench/throughput.py --model $(VENV)/bench.gguf $(if $(LLAMA_SERVER),--llama-server $(LLAMA_SERVER)) $(ARGS)
	$(BIN)/python bench/latency.py --model $(VENV)/bench.gguf $(if $(LLAMA_SERVER),--llama-server $(LLAMA_SERVER))

$(VENV)/bench.gguf: bench/make_gguf.py | install
	$(BIN)/python bench/make_gguf.py --out $@

format: install-dev ## let ruff format the code and mend what it can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

wheel: ## build a wheel into dist/
	$(PYTHON) -m pip --quiet wheel --no-deps --wheel-dir dist .

clean: ## remove .venv, what was built and all caches
	rm -rf $(VENV) build dist .pytest_cache .hypothesis .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
