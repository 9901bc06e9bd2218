# The verbs of this project. Each does its own set-up; nothing else is installed by hand.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
BUDGET ?= 120
export DO_NOT_TRACK := true
# Commands read no .env of the folder that they run in. Here the checkout's own one is named on purpose, if there is one.
export ACADEMY_SETTINGS_FILE ?= $(if $(wildcard .env),$(CURDIR)/.env)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: home evolve test test-fast check lock sbom format campaign bench serve pages deploy clean

# Everything is installed by hash, except torch and the project. torch is asked for by its exact version, so that a build
# for CPUs is taken where pip sees one. Where it does not, torch comes with gigabytes of CUDA packages:
# docs/how-to/install.md.
$(READY): pyproject.toml constraints.txt requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes --no-deps -r requirements.lock
	$(BIN)/python -m pip install --quiet "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

# The databases are set-up, too. The settings say where the home is: ACADEMY_HOME, in the environment or in the checkout's
# .env, or data.
home: $(READY)
	$(BIN)/academy init

evolve: home
	$(BIN)/academy evolve --lessons examples/lessons/01-2026-07-operations.jsonl --tasks examples/tasks.jsonl

# All tests but the campaign's, on all cores.
test: $(READY)
	$(BIN)/python -m pytest -m 'not campaign' --numprocesses auto --dist loadfile --no-loadscope-reorder

# The quick unit tests: no training, no Prefect. Properties are tried with 25 examples, where `make test` tries 100.
test-fast: $(READY)
	HYPOTHESIS_EXAMPLES=25 $(BIN)/python -m pytest -m 'not campaign and not slow' --numprocesses auto --dist loadfile --no-loadscope-reorder tests/unit

# Format, lint, types, layers, words, and the generated references.
check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/plain_words.py
	$(BIN)/python tools/reference.py --check

# The hashes of all packages, after pyproject.toml or constraints.txt changed. It asks the package index.
lock: $(READY)
	$(BIN)/python tools/lock.py

# A list of everything that is installed, with versions and licences, in CycloneDX's format.
sbom: $(READY)
	mkdir -p build
	$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --output-file build/sbom.cdx.json $(BIN)/python
	$(BIN)/python tools/licences.py --check

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# BUDGET is in seconds: the kill matrix and the other long proofs share it.
campaign: $(READY)
	$(BIN)/python -m tests.campaign --budget $(BUDGET)

bench: $(READY)
	$(BIN)/python -m bench.overhead

serve: home
	$(BIN)/academy serve

pages: home
	$(BIN)/academy pages

deploy: $(READY)
	$(BIN)/academy deploy

clean:
	rm -rf $(VENV) build *.egg-info
