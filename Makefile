# Each target makes what it needs, a virtual environment first. PYTHON is any Python from 3.11 on.
PYTHON ?= python3
VENV ?= .venv
FRAMEWORKS ?= .venv-frameworks
TOOLS ?= .venv-tools
# what pip is asked for: of a version it takes the build without CUDA ("+cpu"), where it is offered one
TORCH ?= torch==2.13.*
BIN = $(VENV)/bin

.PHONY: demo test test-faults test-frameworks test-pages test-tools test-containers test-kills test-async simulate bench bench-tables clean

demo: $(VENV)/demo        ## the main job on a real data set: 8 peers learn to diagnose tumors
	$(BIN)/peer launch

test: $(VENV)/dev         ## style, types, layers and every test but those below
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m compileall -q peer topology  # hundreds of processes import them, and some may not write bytecode
	$(BIN)/pytest -n 3 --dist worksteal

test-faults: $(VENV)/dev  ## what processes, disks, links and hosts may suffer; hosts are network namespaces: as root
	$(BIN)/python -m tests.hosts.namespaces
	$(BIN)/pytest -n 4 --dist worksteal tests/faults tests/hosts

test-frameworks: $(FRAMEWORKS)/dev  ## networks written with PyTorch and JAX, which are installed for it
	$(FRAMEWORKS)/bin/pytest -n 2 --dist worksteal tests/frameworks

test-pages: $(VENV)/dev   ## the live page, clicked through in a headless Chromium, which has to be there; watched runs
	$(BIN)/pytest -n 2 --dist worksteal tests/pages

test-tools: $(TOOLS)/dev  ## what TensorBoard and MLflow read of a run; they are installed for it
	$(TOOLS)/bin/pytest tests/tools

test-containers: $(VENV)/dev  ## the peers in containers, on the engine that answers; 69 says that none does
	$(BIN)/python -m tests.containers.engine
	$(BIN)/pytest tests/containers

test-kills: $(VENV)/dev   ## kill -9 of random peers at random times, 50 seeds: half an hour
	$(BIN)/python -m tests.faults.test_kills --seeds 50

test-async: $(VENV)/dev   ## without rounds, real processes: every model on every kind of graph, through loss and kills
	$(BIN)/python -m tests.faults.test_async --long

simulate: $(VENV)/dev     ## 10,000 simulated runs on all cores: 8,000 seeds in rounds, 2,000 without; and 500 cut short
	$(BIN)/python -m tests.simulate --mode rounds --seeds 0:8000
	$(BIN)/python -m tests.simulate --mode async --seeds 0:2000
	$(BIN)/python -m tests.simulate --mode short --seeds 0:500

bench: $(VENV)/dev        ## ours beside bare sockets, LAPACK and memcpy, on one page, benchmarks.html
	$(BIN)/python -m benchmarks

bench-tables: $(VENV)/dev ## the long tables: what a fleet weighs, what a slow peer costs, what blocks and batches save
	$(BIN)/python -m benchmarks.exchange
	$(BIN)/python -m benchmarks.tracking
	$(BIN)/python -m benchmarks.fleet
	$(BIN)/python -m benchmarks.together
	$(BIN)/python -m benchmarks.scaling
	$(BIN)/python -m benchmarks.plan
	$(BIN)/python -m benchmarks.slow
	$(BIN)/python -m benchmarks.solvers
	$(BIN)/python -m benchmarks.solvers --large
	$(BIN)/python -m benchmarks.solvers --cholesky
	$(BIN)/python -m benchmarks.overhead
	$(BIN)/python -m benchmarks.blocks
	$(BIN)/python -m benchmarks.inexact
	$(BIN)/python -m benchmarks.inexact --nystrom
	$(BIN)/python -m benchmarks.gossip
	$(BIN)/python -m benchmarks.batches
	$(BIN)/python -m benchmarks.bytes
	$(BIN)/python -m benchmarks.regimes
	$(BIN)/python -m benchmarks.feedback
	$(BIN)/python -m benchmarks.feedback --agents --seeds 3
	$(BIN)/python -m benchmarks.methods
	$(BIN)/python -m benchmarks.comparison
	$(BIN)/python -m benchmarks.watch
	$(BIN)/python -m benchmarks.watch --publish

clean:
	rm -rf $(VENV) $(FRAMEWORKS) $(TOOLS)

$(VENV)/demo: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[datasets,report,watch]'
	touch $@

$(VENV)/dev: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

$(FRAMEWORKS)/dev: pyproject.toml
	$(PYTHON) -m venv $(FRAMEWORKS)
	$(FRAMEWORKS)/bin/python -m pip install --quiet --editable '.[dev,torch,jax]' '$(TORCH)'
	touch $@

$(TOOLS)/dev: pyproject.toml
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/python -m pip install --quiet --editable '.[dev,mlflow]' tensorboard
	touch $@
