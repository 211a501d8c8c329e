# make demo | test | lint: each sets up .venv on its own, nothing has to be run before them.
#
# PYTHON       the interpreter that makes .venv (3.11 or newer)
# TORCH        the torch to install, pinned so that the CPU build is found
# TORCH_INDEX  where it comes from; the default holds CPU builds. For CUDA:
#              make demo TORCH_INDEX=https://download.pytorch.org/whl/cu130
PYTHON ?= python3
TORCH ?= torch==2.13.0
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
ARGS ?=

.PHONY: demo test fuzz chaos reliability soak lint format setup locks wheelhouse images clean
.DELETE_ON_ERROR:

demo: $(READY)
	$(BIN)/stageline demo $(ARGS)

# Without ARGS: first what needs nothing but processors, on all of them, the longest tests first; then services and small
# clusters, which wait more than they compute, two files at a time; then, one after the other, what fills the machine
# itself or looks at all of it: faults under load, containers, the demo.
PURE := tests/explore tests/fuzz tests/wire tests/unit
PAIRED := $(addprefix tests/integration/,coordinator gateway stage test_cli.py test_wishes.py test_profiling.py test_embedded.py)
test: $(READY)
ifeq ($(strip $(ARGS)),)
	failed=0; \
	$(BIN)/python -m pytest -n auto --dist worksteal $(PURE) || failed=1; \
	$(BIN)/python -m pytest -n 2 --dist loadfile $(PAIRED) || failed=1; \
	$(BIN)/python -m pytest $(addprefix --ignore=,$(PURE) $(PAIRED)) || failed=1; \
	exit $$failed
else
	$(BIN)/python -m pytest $(ARGS)
endif

# TARGET: one of tests/fuzz/targets.py, or all one after the other; RUNS: inputs for each
fuzz: TARGET ?= all
fuzz: RUNS ?= 1000000
fuzz: $(READY)
	$(BIN)/python -c 'import atheris' 2>/dev/null || $(BIN)/pip install --quiet -e '.[fuzz]'
	nice -n 19 $(BIN)/python tests/fuzz/guided.py $(TARGET) --runs $(RUNS)

# Random faults on a cluster under load; every request's outcome is judged.
chaos: SEED ?= 0
chaos: MINUTES ?= 10
chaos: $(READY)
	PYTHONPATH=tests $(BIN)/python -m faults chaos --seed $(SEED) --minutes $(MINUTES)

# Up to RUNS seeded runs of every scenario, and the table of docs/reliability.md. What was run before is kept; stop it
# whenever you like.
reliability: RUNS ?= 20
reliability: $(READY)
	PYTHONPATH=tests $(BIN)/python -m faults table --runs $(RUNS) --write docs/reliability.md

# Full processors and cables for a while, in which no worker may be suspected of anything.
soak: MINUTES ?= 10
soak: $(READY)
	PYTHONPATH=tests $(BIN)/python -m faults soak --minutes $(MINUTES) --json benchmarks/results/soak.json

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

setup: $(READY)

# What the container images install, pinned by hash: compose/locks anew from pyproject.toml and the indexes.
locks: $(READY)
	$(BIN)/python compose/lock.py $(ARGS)

# All that the images install, for building them without a network: PYTHON_VERSION and MACHINE of the boxes' base image.
wheelhouse: PYTHON_VERSION ?= 3.11
wheelhouse: MACHINE ?= $(shell uname -m)
wheelhouse:
	$(PYTHON) compose/wheelhouse.py --python $(PYTHON_VERSION) --machine $(MACHINE) $(ARGS)

images: BASE ?= python:3.11-slim
images:
	docker build -f compose/Dockerfile --build-arg BASE=$(BASE) --target control -t stageline-control .
	docker build -f compose/Dockerfile --build-arg BASE=$(BASE) --target stage -t stageline-stage .


# A wheel that pip already finds offline (PIP_FIND_LINKS, a wheelhouse) wins over the index.
$(READY): pyproject.toml Makefile
	$(PYTHON) -c 'import sys; sys.exit("Stageline is developed on Python 3.11 or newer; set PYTHON=... (found %s)" % sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c 'import torch' 2>/dev/null \
	  || $(BIN)/pip install --quiet --no-index --no-deps '$(TORCH)' 2>/dev/null \
	  || $(BIN)/pip install --quiet '$(TORCH)' --index-url $(TORCH_INDEX)
	$(BIN)/pip install --quiet -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
