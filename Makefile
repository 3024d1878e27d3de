# make tune   a search on real images, on any machine, in minutes
# make reproduce ROW=mnist_mnist   a row of the published table, found again: search, confirmation, figures
# make test   the tests, in about five minutes
# All first make the virtual environment in .venv where it is missing or older than pyproject.toml.

PYTHON ?= python3
SPACE ?= digits_double
ARGS ?=
ROW ?= digits_double
SIZE ?=
BUDGET ?=

BIN := .venv/bin
# processes, each with whole files of tests: with three, two cores have work while one waits
PROCESSES ?= 3
PYTEST := $(BIN)/python -m pytest --numprocesses=$(PROCESSES) --dist=loadfile --no-loadscope-reorder
# what a processor's own rounding may change
NUMERICAL := $(addprefix tests/,attacks evaluation method models training commands/test_evaluate.py spaces/test_objective.py) tests/test_cuda.py
INSTALLED := .venv/installed
SERVICES := .venv/services

.PHONY: help venv tune reproduce test test-long test-all test-wheel test-processors coverage docs lint constraints clean
help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

# pip installs into the environment from outside: some systems ship Python without ensurepip.
# The versions are those of constraints.txt, with which everything was tested.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; ok = (3, 11) <= sys.version_info < (3, 14); ok or sys.exit("error: PYTHON=$(PYTHON): is Python %d.%d; must be 3.11, 3.12 or 3.13" % sys.version_info[:2])'
	$(PYTHON) -m venv --without-pip .venv
	$(PYTHON) -m pip --python $(BIN)/python install --quiet pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	@touch $@

# make venv   the virtual environment alone
venv: $(INSTALLED)

tune: $(INSTALLED)
	$(BIN)/brainreg tune --space=$(SPACE) $(ARGS)

# where SIZE and BUDGET (in minutes) are not given, they are the command's own
reproduce: $(INSTALLED)
	$(BIN)/brainreg reproduce $(ROW) $(if $(SIZE),--size=$(SIZE)) $(if $(BUDGET),--budget=$(BUDGET)) $(ARGS)

test: $(INSTALLED)
	$(PYTEST) -m 'not slow and not long'

# make test-long   real searches that are killed, run out of disk, lose a node, and the like, each on two cores
test-long: $(INSTALLED)
	$(PYTEST) --numprocesses=2 -m 'long and not slow'

$(SERVICES): $(INSTALLED)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test,services]'
	$(PYTHON) -m venv --without-pip .venv/mlflow  # a server of MLflow wants other versions than what is tested
	$(PYTHON) -m pip --python .venv/mlflow/bin/python install --quiet mlflow
	@touch $@

# make test-all   all of them, the slow ones too; those of services need Debian's packages chromium and postgresql
test-all: $(SERVICES)
	$(PYTEST)

# make coverage   what the tests run of the code, line by line, into htmlcov/
coverage: $(INSTALLED)
	$(PYTEST) -m 'not slow' --cov=brainreg --cov-report=html --cov-report=term:skip-covered

# make test-wheel   a wheel, installed outside of the checkout, searches
test-wheel: $(INSTALLED)
	$(BIN)/python -m pytest tests/test_package.py -k wheel

# make test-processors   the tests that compute, as on older processors: AVX2, then SSE4.1
test-processors: $(INSTALLED)
	ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 $(PYTEST) -m 'not slow' $(NUMERICAL)
	ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 $(PYTEST) -m 'not slow' $(NUMERICAL)

# make docs   the documentation, into site/
docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo site/index.html

# make lint   the style, the types, and which package may import which
lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# make constraints   newest versions into constraints.txt, for every system and Python; then the tests
constraints: $(INSTALLED)
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --upgrade --no-header \
		--no-annotate --no-emit-index-url --no-emit-find-links --quiet --output-file constraints.txt

# make clean   remove the virtual environment, and nothing else
clean:
	rm -rf .venv
