# `make study` and `make test` are all there is to know; `make help` lists the rest.
# They need git, Python 3.11 or newer and make. Another Python: make test PYTHON=/path/to/python3.12

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

VENV := .venv
OLDEST_VENV := .venv-oldest
OLDEST_TORCH := 2.11.0
# More words for pip, convbias study and pytest.
PIP_ARGS ?=
ARGS ?=
PYTEST_ARGS ?=
# How many random cases the own kernels are checked on.
CASES ?= 500

EXTRAS := study,onnx,docs,dev
# The stamp knows where the checkout is: an environment does not survive a move unmended.
HERE := $(shell pwd | cksum | cut -d ' ' -f 1)
STAMP := $(VENV)/.installed-$(HERE)
OLDEST_STAMP := $(OLDEST_VENV)/.installed-$(HERE)
BIN := $(VENV)/bin
# What the own kernels are built from.
NATIVE := $(filter-out $(wildcard native/check*) native/fit.py native/aarch64.cmake,$(wildcard native/*))

# pyright's own node and its bundled sources: no look-up and no download when it runs.
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1
export PYRIGHT_PYTHON_GLOBAL_NODE := 0

# $(call make_venv,folder): a fresh environment there, made with a Python that will do.
define make_venv
	candidates="$(or $(PYTHON),python3.11 python3 python3.12 python3.13 python)"; \
	python=; \
	for candidate in $$candidates; do \
	    if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	        python=$$candidate; break; \
	    fi; \
	done; \
	if [ -z "$$python" ]; then \
	    echo "convbias needs Python 3.11 or newer. Tried:" >&2; \
	    for candidate in $$candidates; do \
	        echo "  $$candidate: $$("$$candidate" -V 2>&1 | head -n 1 | sed 's/.*: //' || true)" >&2; \
	    done; \
	    echo "Name one that will do: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; \
	    exit 1; \
	fi; \
	version=$$("$$python" -c 'import sys; print("%d.%d.%d (%s)" % (*sys.version_info[:3], sys.executable))'); \
	if ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then \
	    short=$$("$$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	    echo "Python $$version cannot make environments: it has no ensurepip." >&2; \
	    echo "On Debian or Ubuntu: sudo apt install python$$short-venv" >&2; \
	    echo "Or name another Python: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; \
	    exit 1; \
	fi; \
	echo "==> $(1): a new environment with Python $$version"; \
	"$$python" -m venv --clear $(1)
endef

# $(call need,commands,packages): or else say which of Debian's packages have them.
define need
	for command in $(1); do \
	    if ! command -v $$command >/dev/null; then \
	        echo "make $@ needs $$command. On Debian or Ubuntu: sudo apt install $(2)" >&2; exit 1; \
	    fi; \
	done
endef

# $(call check_native,folder,words for cmake,what runs programs): the kernels and their check built and run.
define check_native
	echo "==> $@"; \
	cmake -S native -B $(1) -DCONVBIAS_CHECK=ON $(2) >/dev/null; \
	cmake --build $(1) --parallel 2; \
	$(3) $(1)/check $(CASES)
endef

.PHONY: help
help: ## this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-14s %s\n", $$1, $$2}'

.PHONY: study
study: $(STAMP) ## which bias suits the data? on the built-in example (more words: ARGS='…')
	@$(BIN)/convbias study $(ARGS)

.PHONY: test
test: lint types docs pytest ## lint, types, docs and tests: what CI runs

.PHONY: lint
lint: $(STAMP) ## ruff: rules and format
	@echo "==> lint"
	@$(BIN)/python -m ruff check .
	@$(BIN)/python -m ruff format --check .

.PHONY: types
types: $(STAMP) ## pyright: strict on the core
	@echo "==> types"
	@$(BIN)/python -m pyright

.PHONY: pytest
pytest: $(STAMP) ## tests and doctests, side by side (more words: PYTEST_ARGS='-k tap -n 0')
	@echo "==> tests"
	@$(BIN)/python -m pytest -n auto --maxprocesses 4 $(PYTEST_ARGS)

.PHONY: docs
docs: $(STAMP) ## the documentation, in build/docs
	@echo "==> docs"
	@$(BIN)/python -m sphinx -q -W --keep-going -d build/doctrees docs build/docs
	@echo "build/docs/index.html"

.PHONY: fuzz
fuzz: $(STAMP) ## 500 random networks folded (not in CI: some minutes)
	@CONVBIAS_NETWORKS=500 $(BIN)/python -m pytest tests/test_folding_random.py $(PYTEST_ARGS)

.PHONY: mutants
mutants: $(STAMP) ## lines of the folding broken one by one: does a test fail? (not in CI: a quarter of an hour)
	@$(BIN)/python tests/mutants.py

.PHONY: mutants-native
mutants-native: ## lines of the own kernels broken one by one: does their check fail? (not in CI: some minutes)
	@$(call need,g++,g++)
	@python3 tests/mutants_native.py

.PHONY: native
native: ## the own kernels, in build/native, checked for every instruction set (more cases: CASES=5000)
	@$(call need,cmake,cmake g++)
	@$(call check_native,build/native,,)

# No ThreadSanitizer: it does not see how gcc's libgomp waits for its threads, and calls the end of every
# parallel loop a data race.
.PHONY: sanitize
sanitize: ## the same check under the address and undefined behaviour sanitizers
	@$(call need,cmake,cmake g++)
	@$(call check_native,build/sanitize,\
	    -DCMAKE_CXX_FLAGS='-g -fsanitize=address -fsanitize=undefined -fno-sanitize-recover=all',)

.PHONY: aarch64
aarch64: ## the same check on an emulated 64-bit ARM (needs a cross compiler and qemu)
	@$(call need,cmake aarch64-linux-gnu-g++ qemu-aarch64-static,cmake g++-aarch64-linux-gnu qemu-user-static)
	@$(call check_native,build/aarch64,-DCMAKE_TOOLCHAIN_FILE=aarch64.cmake,\
	    qemu-aarch64-static -L /usr/aarch64-linux-gnu)

.PHONY: format
format: $(STAMP) ## mend what ruff can mend
	@$(BIN)/python -m ruff check --fix .
	@$(BIN)/python -m ruff format .

.PHONY: setup
setup: $(STAMP) ## the environment alone, in .venv

.PHONY: test-oldest
test-oldest: $(OLDEST_STAMP) ## the tests on the oldest torch the package allows (not in CI: a large download)
	@echo "==> tests, torch $(OLDEST_TORCH)"
	@$(OLDEST_VENV)/bin/python -m pytest $(PYTEST_ARGS)

.PHONY: clean
clean: ## remove the environments, caches and built packages
	rm -rf $(VENV) $(OLDEST_VENV) build dist .pytest_cache .ruff_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# An environment whose Python has gone or is too old is made anew; any other is brought up to date.
$(STAMP): pyproject.toml constraints.txt $(NATIVE)
	@if ! $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	    || ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	    $(call make_venv,$(VENV)); \
	fi
	@echo "==> installing torch and the tools into $(VENV): several hundred megabytes, some minutes the first time"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) \
	    -c constraints.txt -e '.[$(EXTRAS)]'
	@rm -f $(VENV)/.installed-* && touch $@
	@echo "==> $(VENV) is ready: $$($(BIN)/python -V), torch $$($(BIN)/python -c \
	    'from importlib.metadata import version; print(version("torch"))')"

$(OLDEST_STAMP): pyproject.toml constraints.txt $(NATIVE)
	@$(call make_venv,$(OLDEST_VENV))
	@echo "==> installing torch $(OLDEST_TORCH) and the tools into $(OLDEST_VENV): some minutes"
	@sed 's/^torch==.*/torch==$(OLDEST_TORCH)/' constraints.txt > $(OLDEST_VENV)/constraints.txt
	@$(OLDEST_VENV)/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) \
	    -c $(OLDEST_VENV)/constraints.txt -e '.[$(EXTRAS)]'
	@touch $@
