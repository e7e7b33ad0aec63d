# `make` alone prints this menu.
PYTHON ?= python3
# A second environment, for another Python: make test VENV=.venv-3.13 PYTHON=python3.13
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.requirements
MODULES := tests/contract/node_modules/.package-lock.json
SBOM   ?= .cache/sbom.cdx.json
# Processes of tests: more than two cores, since tests wait a good deal.
WORKERS ?= 3

# How long each fault lasts in the long tests.
FAULT_SECONDS ?= 60

# The calls a second of `make soak`, and its length.
RATE ?= 200
MINUTES ?= 60

# What the fuzzed tests of `make test-faults` are made from; give the printed one to repeat a run.
SEED := $(or $(SEED),$(shell od -An -N4 -tu4 /dev/urandom | tr -d ' '))

.DEFAULT_GOAL := help
.PHONY: help setup run test test-faults fault-table counts contract publish-contract telemetry lint format bench bench-peers soak lock lock-jars sbom clean

help:  ## this menu
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.NOTPARALLEL:  # what a command needs is looked for before anything is installed

setup: $(STAMP)  ## make .venv (or VENV=…) and install what is locked (does nothing when up to date)

run: needs-run $(STAMP)  ## start everything on this machine, link a document, show its event; Ctrl-C ends it all
	@$(BIN)/python -m deploy.local run

test: needs-test $(STAMP)  ## every test but the contract's and the long faults', on real Postgres and Kafka (ARGS="-k name" to choose)
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup --ignore tests/contract --ignore tests/faults $(ARGS)

test-faults: needs-test $(STAMP)  ## both programs through long faults, fuzzed tests with fresh seeds, larger worlds (two hours)
	@echo "fuzzed tests: SEED=$(SEED)"
	@FRESH_SEEDS=20 SEED=$(SEED) $(BIN)/python -m pytest --verbose --timeout 1800 -m 'fuzzed or hypothesis' \
		--hypothesis-seed $(SEED) --ignore tests/contract $(ARGS)
	@FAULT_SECONDS=$(FAULT_SECONDS) $(BIN)/python -m pytest --timeout 1800 tests/acceptance/relay/test_faults.py tests/acceptance/relay/test_several_workers.py \
		tests/acceptance/relay/test_recovery_*.py tests/acceptance/service/test_entity_deletion.py tests/faults $(ARGS)

fault-table: needs-test $(STAMP)  ## the README's table of faults, anew (FAULT_SECONDS=20: half an hour)
	@FAULT_SECONDS=$(FAULT_SECONDS) $(BIN)/python -m pytest --timeout 1800 tests/faults/test_table.py $(ARGS)
	@$(BIN)/python -m tests.faults

counts: $(STAMP)  ## count round trips, statements, WAL and dead tuples of each operation anew, for make test to hold
	@$(BIN)/python -m tests.counts

contract: needs-contract $(STAMP) $(MODULES)  ## the service against its OpenAPI, AsyncAPI and /docs, with others' tools
	@$(BIN)/python -m pytest tests/contract $(ARGS)

publish-contract: $(STAMP)  ## take what the service describes now as published, unless that breaks callers
	@$(BIN)/python -m tests.contract

telemetry: $(STAMP)  ## write deploy/telemetry.md, the operators' page of metrics and log events, anew
	@$(BIN)/python -m tests.telemetry

lint: $(STAMP)  ## ruff, mypy, the packages' import contracts, the linter of the schema and its migrations
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	PYTHONPATH=. $(BIN)/lint-imports
	$(BIN)/squawk schema.sql service/store/migrations/*.sql

format: $(STAMP)  ## let ruff put the code in order
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: needs-bench $(STAMP)  ## measure requests, draining and latency beside pgbench (ten minutes)
	@$(BIN)/python -m tests.benchmarks $(ARGS)

bench-peers: needs-bench-peers $(STAMP)  ## the same and more beside OpenFGA, FastAPI, Debezium, and relays in Go and Python
	@$(BIN)/python -m tests.benchmarks --peers --output .cache/bench-peers.json $(ARGS)

soak: needs-soak $(STAMP)  ## both programs under a steady mix of all calls, for an hour (RATE=200 calls a second, MINUTES=60)
	@$(BIN)/python -m tests.soak --rate $(RATE) --minutes $(MINUTES) $(ARGS)

LOCK := pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-header --no-annotate --no-emit-index-url --no-emit-find-links
PEERS := tests/benchmarks/peers
CLIENTS := tests/contract/clients
lock: $(STAMP)  ## resolve pyproject.toml anew into deploy/requirements
	$(BIN)/uv $(LOCK) --all-extras pyproject.toml --output-file deploy/requirements/run.txt
	$(BIN)/uv $(LOCK) --all-extras pyproject.toml --group dev --constraint deploy/requirements/run.txt \
		--output-file deploy/requirements/dev.txt
	$(BIN)/uv $(LOCK) $(PEERS)/fastapi_app/requirements.in --output-file $(PEERS)/fastapi_app/requirements.txt
	$(BIN)/uv $(LOCK) $(PEERS)/polling_relay/requirements.in --output-file $(PEERS)/polling_relay/requirements.txt
	$(BIN)/uv $(LOCK) tests/support/golang.in --output-file tests/support/golang.txt
	$(BIN)/uv $(LOCK) $(CLIENTS)/requirements.in --output-file $(CLIENTS)/requirements.txt

lock-jars: needs-lock-jars $(STAMP)  ## resolve the jars of Kafka, its peers and generated clients anew, with Maven
	@$(BIN)/python -m deploy.local.java

sbom: $(STAMP)  ## write the image's bill of materials (CycloneDX) to SBOM=.cache/sbom.cdx.json
	@$(BIN)/python -m deploy.sbom $(SBOM)

needs-%:
	@$(PYTHON) -m deploy.local.tools $*

clean:  ## remove .venv and every cache
	rm -rf .venv .venv-* .cache .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	rm -rf tests/contract/node_modules

$(STAMP): deploy/requirements/dev.txt
	@$(PYTHON) -m deploy.local.tools setup
	@test -x $(BIN)/python -a -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)  # pip comes last: an interrupted run left none
	@echo "installing what $< locks …"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r $< \
		|| { echo "pip could not install the packages: it needs the Python Package Index, or the index of PIP_INDEX_URL" >&2; exit 1; }
	@touch $@

$(MODULES): tests/contract/package-lock.json
	@npm ci --prefix tests/contract --silent
	@touch $@
