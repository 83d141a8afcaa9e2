# Targets for users and for continuous integration. Needs make and Python 3.10 or newer, nothing else.
#
#   PYTHON=python3.12   the interpreter that .venv is made with
#   TORCH=2.13.0        the torch version to install; unset: whatever pip resolves. Of golden-matrix: several
#   PYTHONS="3.10 3.13" run every cell of golden-matrix with each; unset: a Python for each torch

PYTHON ?= python3
TORCH ?=
PYTHONS ?=

PY := .venv/bin/python
# A stamp for what is installed: the package alone, or with the development tools. The torch version is in
# the name, so that another one is another target.
BASE := .venv/.base-torch-$(or $(firstword $(TORCH)),any)
DEV := .venv/.dev-torch-$(or $(firstword $(TORCH)),any)
PYTEST := $(PY) -m pytest
install = @echo "installing $(1) into .venv"; $(PY) -m pip install --quiet $(1) || \
	{ echo "make: pip could not install $(1); its last lines say why; it needs a package index that it can reach." >&2; exit 1; }

.DEFAULT_GOAL := help
.PHONY: help demo check test test-all golden bench golden-matrix mutation

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' Makefile

demo: $(BASE) ## convert a bundled fairseq checkpoint, extract features, compare them with fairseq's
	@$(PY) examples/demo.py

check: $(DEV) ## format, lint and types
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy

test: $(DEV) ## the tests, without the slow ones (at most 10 minutes)
	$(PYTEST) -m "not slow and not weights and not cuda"

test-all: $(DEV) ## every test that needs no GPU and no released weights (at most 45 minutes)
	$(PYTEST) -m "not weights and not cuda"

golden: $(DEV) ## only the comparisons with recorded reference values
	$(PYTEST) tests/golden

bench: $(DEV) ## speed and memory; the figures go to .benchmarks/latest.json too
	@mkdir -p .benchmarks
	$(PYTEST) benchmarks --benchmark-sort=name --benchmark-columns=median,iqr,min,rounds --benchmark-json=.benchmarks/latest.json

golden-matrix: ## by hand: golden tests over versions of torch, TORCH="2.6.0 2.13.0", and of Python, PYTHONS
	@$(PYTHON) scripts/golden_matrix.py $(or $(TORCH),$(error golden-matrix needs versions: make golden-matrix TORCH="2.6.0 2.13.0")) \
		$(if $(PYTHONS),--pythons $(PYTHONS))

mutation: $(DEV) ## by hand: mutation score of the golden tests, docs/mutation.md (at most 30 minutes)
	$(PY) scripts/mutation.py --output docs/mutation.md

$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "make: '$(PYTHON)' is missing or older than Python 3.10: name another one, for example 'make PYTHON=python3.12 demo'." >&2; exit 1; }
	@echo "making .venv; PyTorch, installed into it next, can be gigabytes"
	@$(PYTHON) -m venv .venv || \
		{ rm -rf .venv; echo "make: '$(PYTHON) -m venv .venv' failed: install Python's venv module (Debian and Ubuntu: apt install python3-venv)." >&2; exit 1; }

$(BASE): pyproject.toml | $(PY)
	@rm -f .venv/.base-* .venv/.dev-*
	$(if $(TORCH),$(call install,torch==$(TORCH)))
	$(call install,-e .)
	@touch $@

$(DEV): $(BASE)
	$(call install,-e '.[dev]')
	@touch $@
