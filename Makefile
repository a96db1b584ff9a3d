# nelbo: everything from a fresh clone. Each target sets up the virtual environment it needs.

PYTHON ?= $(firstword $(foreach p,python3.11 python3.12 python3.13 python3,$(shell command -v $(p) 2>/dev/null)))
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
RUN ?= runs/digits
WORKERS ?= 2
# Of `make mutants`: how many a module, all where it is empty, and which modules.
MUTANTS ?=
MODULES ?=
# Of `make gpu`: checks whose names contain one of these, all where it is empty.
CHECKS ?=
# Scripts are checked for names and calls that the package no longer has; not for these.
LOOSE := arg-type assignment dict-item index misc no-untyped-def return-value type-var union-attr var-annotated

.DEFAULT_GOAL := help
.PHONY: help demo test slow mutants gpu lint format bench docs clean

help:
	@echo "make demo    train on digits for two minutes, evaluate, sample, write a report"
	@echo "make test    run the test suite"
	@echo "make slow    run the longer checks"
	@echo "make mutants plant small mistakes in the mathematics, report the share the tests catch"
	@echo "make gpu     on a machine with CUDA: equal results to the CPU's, speed beside diffusers"
	@echo "make lint    ruff and mypy"
	@echo "make bench   measure speed side by side with diffusers"
	@echo "make docs    build the documentation with a reference, site/index.html"
	@echo "make clean   remove the virtual environment, caches and demo run"

demo: $(READY)
	$(BIN)/nelbo train digits --out $(RUN) --time-budget 120s --evaluate-levels all --overwrite

test: $(READY)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

slow: $(READY)
	$(BIN)/python -m pytest -m slow -s

mutants: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[mutants]'
	$(BIN)/python -m tests.mutants $(if $(MUTANTS),--count $(MUTANTS)) $(MODULES)

# With PYTHON, if its PyTorch sees CUDA; otherwise with the virtual environment.
gpu:
	@if test -n "$(PYTHON)" && $(PYTHON) -c \
		'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then \
		PYTHONPATH=src $(PYTHON) -m tests.gpu $(CHECKS); \
	else \
		$(MAKE) --no-print-directory $(READY) && $(BIN)/python -m tests.gpu $(CHECKS); \
	fi

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	MYPYPATH=src:benchmarks $(BIN)/mypy $(foreach code,$(LOOSE),--disable-error-code=$(code)) benchmarks examples

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)
	@for script in benchmarks/[a-z]*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

docs: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet docs site
	@echo "site/index.html"

clean:
	rm -rf $(VENV) runs dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The mark is written last: an installation that was cut short is done again.
$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "nelbo needs Python 3.11 or newer; found none"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "nelbo needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1)"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
		{ echo "$(PYTHON) lacks the venv module (on Debian: apt install python3-venv)"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(READY)
