# Every target works in a fresh clone with GNU make and Python 3.11 or newer: what is missing is installed into .venv.
# PYTHON=python3.12 chooses the interpreter; WORKERS=4 the number of test processes. Where several GB of CUDA libraries
# are not wanted, let pip find a CPU build of torch first (PIP_FIND_LINKS or PIP_EXTRA_INDEX_URL).

PYTHON ?= python3
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
EXTRAS := train,report,serve,ray,dev
BASES := smollm2-135m-instruct all-minilm-l6-v2
PYTEST := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS)

export PIP_DISABLE_PIP_VERSION_CHECK := 1
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo check test test-all bench docs clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "peftu needs Python 3.11 or newer, and '$(PYTHON)' is not: make PYTHON=python3.11 ..." >&2; exit 2; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@

setup: $(INSTALLED) ## Install into .venv and put the base weights into the cache (PEFTU_CACHE)
	@$(BIN)/python -m peftu.base.weights $(BASES)

demo: setup ## Personalise for 150 real film viewers, with four methods; the report is runs/demo/report.html
	$(BIN)/peftu compare movielens --users 150 --max-items 60 --base all-minilm-l6-v2 --out runs/demo --if-exists overwrite \
	  --methods "user-majority,mixed-head,global,lora[offset=mixed-head,epochs=4]"

check: $(INSTALLED) ## Lint, types, layers, spelling, dependencies, file length
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/lint-imports
	$(BIN)/python -m codespell_lib $$(git ls-files)
	$(BIN)/python -m deptry .
	@git ls-files -z '*.py' | xargs -0 awk 'FNR == 501 { print FILENAME ": more than 500 lines"; bad = 1 } END { exit bad }'

test: setup ## Run the tests, without the slow ones
	$(PYTEST) -m "not slow"

test-all: setup ## Run every test
	$(PYTEST)

bench: setup ## Run every script in benchmarks/, hours in all: make bench RAW=DIR (one folder a data set)
	@[ -d "$(RAW)" ] || { echo "make bench: pass RAW=DIR, a folder with one folder a data set" >&2; exit 2; }
	@set -e; for script in benchmarks/[a-z]*.py; do echo "== $$script"; \
	  if grep -q -e '"--raw"' "$$script"; then $(BIN)/python "$$script" --raw "$(RAW)"; else $(BIN)/python "$$script"; fi; done

docs: $(INSTALLED) ## Check that every link between pages leads somewhere
	$(BIN)/python -m pytest tests/unit/test_docs.py

clean: ## Remove .venv, caches and builds; runs/ and the weights stay
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find src tests -name __pycache__ -prune -exec rm -rf {} +
