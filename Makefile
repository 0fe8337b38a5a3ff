# Everything is installed into .venv and nowhere else, but for python3-venv: where that is missing, make asks, or is told by
# SYSTEM_PACKAGES=yes (or no), of make or of the environment.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.SILENT:
.DEFAULT_GOAL := help
.PHONY: help setup quick test docs mace floor fuzz lint types arrows demo bench clean

# The laws of every room, and the whole line on one real model; CONTRIBUTING.md says how this list is kept.
CORE := $(addprefix tests/, \
  test_algebras.py test_groups.py test_house.py test_intertwiners.py test_proof.py test_record.py test_representations.py \
  test_testing.py $(addprefix grids/test_, convolution.py flows.py taps.py) modules \
  graph/test_contractions.py graph/test_recording.py $(addprefix measuring/test_, parts.py elements.py general_position.py verdicts.py) \
  $(addprefix relaxation/test_, penalties.py sketch.py summary.py) \
  $(addprefix inspection/test_, derivatives.py monitor.py report.py) \
  lconv/test_layer.py lconv/test_operators.py lconv/test_pooling.py checkpoint/test_conversion.py cli/test_main.py \
  'test_main_line.py::test_convert_equals_project[vn_pointnet-.pt-None]')

# Warnings of loading e3nn 0.4.4, and of how torch annotates what that scripts.
OF_E3NN_044 := -W 'ignore:Environment variable TORCH_FORCE:UserWarning' -W 'ignore:The TorchScript type system:UserWarning'

help: ## Say what there is
	grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: $(READY) ## Install all that the other targets need (instant when nothing changed)

quick: lint types arrows ## Run lint, types, arrows and the core of the tests
	$(BIN)/python -m pytest -n 2 $(CORE)

test: lint types arrows ## Run every check: lint, types, arrows, then the tests
	$(BIN)/python -m pytest -n 2

docs: .venv-docs/.ready ## Build the documentation as a site in build/site; a link that leads nowhere is an error
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict

mace: .venv-mace/.ready ## Train with MACE's own program, plainly and relaxed, in an environment of its own
	OMP_NUM_THREADS=1 .venv-mace/bin/python -m pytest --rootdir environments/mace -c environments/mace/pytest.ini environments/mace

floor: .venv-floor/.ready ## Run the core of the tests on the oldest torch, numpy, scipy and e3nn that are allowed
	# e3nn 0.4.4 loads its constants in a way that torch 2.6 allows on request only
	TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1 .venv-floor/bin/python -m pytest -n 2 $(OF_E3NN_044) $(CORE)

fuzz: $(READY) ## Convert damaged files for a minute (SECONDS=600 for longer)
	PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python -m fuzz $(or $(SECONDS),60)

lint: $(READY) ## Check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY) ## Check types
	$(BIN)/mypy

arrows: $(READY) ## Check that the packages import each other in the allowed directions only
	$(BIN)/lint-imports --no-logo

demo: $(READY) ## Train, project, convert and verify a small model
	$(BIN)/relaxify demo

bench: $(READY) ## Measure what a relaxed training step costs, in time and memory, and what a verdict does
	PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks --memory
	PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks --verdicts

clean: ## Remove .venv, builds and caches
	rm -rf .venv .venv-docs .venv-floor .venv-mace build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

$(READY): pyproject.toml constraints.txt
	fail() { echo "make: $$1" >&2; exit 1; }
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' ||
	  fail "the pinned packages need Python 3.11, 3.12 or 3.13, and '$(PYTHON)' is none of these: run make PYTHON=python3.12."
	if ! $(PYTHON) -c 'import ensurepip' 2>/dev/null; then
	  missing="'$(PYTHON)' cannot make virtual environments"
	  command -v apt-get >/dev/null || fail "$$missing: install your system's package for it."
	  answer="$(SYSTEM_PACKAGES)"
	  if [ -z "$$answer" ] && [ -t 0 ]; then
	    read -rp "$$missing. Install python3-venv with apt-get? [y/N] " answer
	  fi
	  [[ "$$answer" =~ ^[Yy] ]] ||
	    fail "$$missing: install python3-venv (apt-get install python3-venv), or let make do it: make SYSTEM_PACKAGES=yes."
	  root=$$([ "$$(id -u)" = 0 ] || echo sudo)
	  echo "Installing python3-venv"
	  $$root apt-get -qq update && $$root apt-get -qq install -y --no-install-recommends python3-venv >/dev/null || true
	  $(PYTHON) -c 'import ensurepip' 2>/dev/null || fail "$$missing, with python3-venv either: make PYTHON=python3.12 takes another."
	fi
	echo "Installing into .venv (the first time takes some minutes)"
	[ -e $@ ] || trap '[ -e $@ ] || rm -rf .venv' EXIT
	$(PIP) --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	$(PIP) install "$$(grep ^torch== constraints.txt)" --constraint constraints.txt
	$(PIP) install --no-deps --requirement constraints.txt
	$(PIP) install --no-deps --no-build-isolation --editable .
	# MACE's e3nn, beside the current one: tests put this folder first on the path of a subprocess.
	[ -d .venv/e3nn-0.4.4 ] || $(PIP) install --no-deps --target .venv/e3nn-0.4.4 e3nn==0.4.4
	touch $@

.venv-docs/.ready: environments/docs/constraints.txt
	echo "Installing into .venv-docs"
	$(PYTHON) -m venv --clear .venv-docs
	.venv-docs/bin/python -m pip --disable-pip-version-check --quiet install --no-deps --requirement environments/docs/constraints.txt
	touch $@

# MACE pins e3nn 0.4.4; the current one is put beside it, for tests that put that folder first on the path.
.venv-mace/.ready: pyproject.toml environments/mace/constraints.txt
	echo "Installing into .venv-mace"
	$(PYTHON) -m venv --clear .venv-mace
	pip() { .venv-mace/bin/python -m pip --disable-pip-version-check --quiet "$$@"; }
	pip install "$$(grep ^torch== environments/mace/constraints.txt)"
	pip install --no-deps --requirement environments/mace/constraints.txt
	pip install --no-deps --no-build-isolation --editable .
	pip install --no-deps --target .venv-mace/e3nn-0.6.0 e3nn==0.6.0
	touch $@

.venv-floor/.ready: pyproject.toml environments/floor/constraints.txt
	echo "Installing into .venv-floor (torch alone is some 3 GB)"
	$(PYTHON) -m venv --clear .venv-floor
	pip() { .venv-floor/bin/python -m pip --disable-pip-version-check --quiet "$$@"; }
	pip install "$$(grep ^torch== environments/floor/constraints.txt)"
	pip install --no-deps --requirement environments/floor/constraints.txt
	pip install --no-deps --editable .
	touch $@
