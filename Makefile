# Only this file knows how to make the virtual environment. run_single.sh calls `make setup`.
PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python

.DEFAULT_GOAL := help
.PHONY: help setup test lint fuzz bench clean

help: ## print these targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-7s %s\n", $$1, $$2}'

$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed: $(PYTHON) is $$($(PYTHON) -V 2>&1)." \
	       "Try: make PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(PY)
# pip would compile every module of torch, which takes 17 seconds; only those in use are compiled
	$(PY) -m pip install --no-compile --quiet --disable-pip-version-check -c constraints.txt -e .
	@PYTHONDONTWRITEBYTECODE= $(PY) -c 'import experiments.launch.preload, experiments.report.page'
	@touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt | $(PY)
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $@ $(VENV)/.installed

# litgpt is installed without its dependencies, because its bound on huggingface_hub contradicts
# that of transformers.
$(VENV)/.installed-bench: pyproject.toml constraints.txt | $(PY)
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,bench]'
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps litgpt
	@touch $@ $(VENV)/.installed $(VENV)/.installed-test

setup: $(VENV)/.installed ## make .venv and install what a study needs

test: $(VENV)/.installed-test ## install the test extras, lint, and run every test
	$(PY) -m ruff check .
	$(PY) -m pytest -n auto --dist loadfile $(ARGS)

lint: $(VENV)/.installed-test ## run ruff
	$(PY) -m ruff check .

fuzz: $(VENV)/.installed-test ## try hostile input on every reader and verb (ARGS="--minutes 60")
	$(PY) -m tests.faults.fuzz $(ARGS)

# the help needs no packages, so nothing is installed for it
ifneq ($(filter -h --help,$(ARGS)),)
bench:
	@$(if $(wildcard $(PY)),$(PY),$(PYTHON)) -m benchmarks $(ARGS)
else
bench: $(VENV)/.installed-bench ## measure ratios to peer projects, interleaved (MINGPT=path NANOGPT=path ARGS=…)
	MINGPT='$(MINGPT)' NANOGPT='$(NANOGPT)' $(PY) -m benchmarks $(ARGS)
endif

clean: ## remove the virtual environment and caches, never results
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
