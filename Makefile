# One command each. `make setup` is implied by all of them and costs nothing the second time.
SHELL := /bin/bash
.DEFAULT_GOAL := help
VENV := .venv
BIN := $(VENV)/bin
# The first Python >= 3.11 that can make a virtual environment.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3 /usr/bin/python3.11 /usr/bin/python3; do \
	$$p -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo $$p; break; }; done)
STAMP := $(VENV)/.installed
DEMO_OUTPUT ?= demo-output
WORKERS ?= 2

.PHONY: help setup demo test test-again test-ray check bench hostile bench-peers bench-accuracy clients proto format clean

help:  ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 16

setup: $(STAMP)  ## make .venv and install the pinned dependencies

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "forecaster needs Python 3.11 or newer with the venv module (Debian: apt install python3-venv)"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: setup  ## train, register, serve, stream, kill -9, recover, report
	$(BIN)/forecaster demo --output $(DEMO_OUTPUT)

# Two files at a time, those that take longest first; WORKERS=0 runs all in one process.
test: setup  ## run the tests
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder tests/e2e tests/integration tests/unit

# WORDS='kills swaps' repeats the files whose names hold one of them. What was stopped is gone on with.
test-again: setup  ## repeat the tests that start processes, wait or measure, TIMES=3 idle and beside busy processes
	$(BIN)/python -m tests.again $(if $(TIMES),--times $(TIMES)) $(WORDS)

# Not among the others: Ray is large, and its cluster takes minutes to start and stop.
test-ray: setup  ## install the extra `ray`, and train on a local cluster of two workers
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[ray]'
	$(BIN)/python -m pytest tests/integration/training/test_train_ray.py

check: setup  ## lint, types, import order, API rules, generated code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/buf lint proto
	$(BIN)/buf breaking proto --against proto/released.binpb
	$(BIN)/python proto/generate.py --check
	$(BIN)/python -m tests.clients --check

# PEERS=0 leaves other servers out; GROUPS=recovery measures that alone; SCALE=0.05 is a quick look with fewer series.
bench: setup $(if $(filter 0,$(PEERS)),,bench-peers)  ## measure serving against its bars and beside other servers
	$(BIN)/python -m tests.benchmarks $(GROUPS) $(if $(SCALE),--scale $(SCALE)) $(if $(filter 0,$(PEERS)),--no-peers)

# WORDS='columns deletions' runs the rows whose names hold one of them.
hostile: setup  ## measure what hostile clients make a polite one wait, and what they cost the server
	$(BIN)/python -m tests.hostile $(WORDS)

# Not everywhere are there wheels of all of them: what cannot be installed is left out.
bench-peers: setup
	@for name in peer-server triton; do $(MAKE) --no-print-directory build/$$name-venv/.installed \
		|| echo "$$name cannot be installed here: make bench does without it"; done

build/triton-venv/.installed: PIP_OPTIONS = --no-deps

build/peer-server-venv/.installed build/triton-venv/.installed: build/%-venv/.installed: tests/benchmarks/%.txt
	test -x build/$*-venv/bin/python || $(PYTHON) -m venv build/$*-venv
	build/$*-venv/bin/python -m pip install --quiet --disable-pip-version-check -c $< torch
	build/$*-venv/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_OPTIONS) -r $<
	@touch $@

# M4=FOLDER adds M4 Hourly, SECONDS=300 is the training time of each model.
bench-accuracy: setup build/peers-venv/.installed  ## train and score ours beside other programs' models
	$(BIN)/python -m tests.benchmarks.accuracy $(if $(M4),--m4 $(M4)) $(if $(SECONDS),--seconds $(SECONDS))

build/peers-venv/.installed: tests/benchmarks/peers.txt
	test -x build/peers-venv/bin/python || $(PYTHON) -m venv build/peers-venv
	build/peers-venv/bin/python -m pip install --quiet --disable-pip-version-check -c tests/benchmarks/peers.txt torch
	build/peers-venv/bin/python -m pip install --quiet --disable-pip-version-check -r tests/benchmarks/peers.txt
	@touch $@

clients: setup  ## regenerate the blocking client from the asyncio one
	$(BIN)/python -m tests.clients

proto: setup  ## regenerate forecaster/v1 from proto/
	$(BIN)/python proto/generate.py

format: setup  ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove the environment, caches and outputs
	rm -rf $(VENV) build demo-output .pytest_cache .mypy_cache .ruff_cache .hypothesis
