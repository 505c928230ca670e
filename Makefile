# Two commands are enough: `make run` and `make test`. Both set everything up in .venv first; `make help` lists the rest.
# PYTHON=/path/to/python3 chooses the interpreter, WORKERS=4 the number of test processes, ARGS=... is passed on.

VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2
# A module stays with one process, and the longest come first: tests/conftest.py orders them.
SHARED := -n $(WORKERS) --dist loadscope --no-loadscope-reorder
COMPILE := $(BIN)/uv pip compile pyproject.toml --universal --generate-hashes --no-annotate --no-header --quiet
# Stamps are written last, so that an interrupted set-up is repeated.
RUN := $(VENV)/.ready-run
DEV := $(VENV)/.ready-dev
SETUP := scripts/setup-venv.sh scripts/find-python.sh

export PYTHON

.DEFAULT_GOAL := help
.PHONY: help run test test-long test-all check lint types layers tracked coverage format bench walk fault galera lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(RUN) ## set up, then start everything in one process (chatflow up)
	@exec $(BIN)/chatflow up $(ARGS)

test: $(DEV) ## set up, then run every test but the long ones
	@scripts/system-packages.sh
	@$(BIN)/python -m pytest $(SHARED) $(ARGS)

test-long: $(DEV) ## only the long ones: a load that is killed, other seeds, MySQL and RabbitMQ 4 from other Debian releases
	@scripts/system-packages.sh
	@$(BIN)/python -m pytest -m long $(SHARED) $(ARGS)

test-all: test test-long ## every test: half an hour on two cores

check: lint types layers tracked coverage ## lint, format, types, layers, tracked files, domain coverage

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(DEV)
	$(BIN)/mypy

layers: $(DEV)
	$(BIN)/lint-imports --no-logo

tracked:
	scripts/check-tracked.sh

coverage: $(DEV)
	$(BIN)/python -m pytest tests/unit -q -n $(WORKERS) --cov=chatflow.domain --cov-fail-under=95

format: $(DEV) ## apply ruff's fixes and formatting
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(DEV) ## measure throughput and latency on this machine
	@$(BIN)/python -m benchmarks.bench $(ARGS)

walk: $(DEV) ## list the modules that one read and one message pass through
	@$(BIN)/python scripts/walk.py

# FALLBACK=1: every driver by its documented parts only. NEWER=1: on MySQL and RabbitMQ 4 from other Debian releases.
fault: $(DEV) ## kill, stop, cut, fill under load: ROUNDS=30, SEED=n repeats a round; without ROUNDS the long kill tests too
	@scripts/system-packages.sh
	@$(BIN)/python -m tests.fault --rounds $(or $(ROUNDS),10) $(if $(SEED),--seed $(SEED)) \
		$(if $(FALLBACK),--fallback) $(if $(NEWER),--newer)
	@$(if $(ROUNDS),,$(BIN)/python -m pytest tests/fault -m long $(ARGS))

galera: $(DEV) ## two active processors on two nodes of a Galera cluster, every ack audited: ARGS="--runs 20 --messages 60000"
	@scripts/system-packages.sh
	@$(BIN)/python -m tests.fault.galera $(ARGS)

lock: $(BIN)/uv ## pin the dependencies of pyproject.toml (ARGS=--upgrade for newer ones)
	$(COMPILE) --group build $(ARGS) -o requirements/run.txt
	$(COMPILE) -c requirements/run.txt $(ARGS) -o requirements/image.txt
	$(COMPILE) --group dev -c requirements/run.txt $(ARGS) -o requirements/dev.txt

clean: ## remove the environment, caches and build output; data in ./var stays
	rm -rf $(VENV) build dist .coverage .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find src tests benchmarks migrations scripts -name __pycache__ -type d -prune -exec rm -rf {} +

$(RUN): requirements/run.txt pyproject.toml $(SETUP)
	@scripts/setup-venv.sh $(VENV) requirements/run.txt
	@touch $@

# Locking needs uv only: what is installed cannot agree with pyproject.toml before the lock does.
$(BIN)/uv:
	@$(MAKE) $(DEV)

# What tests need includes what running needs.
$(DEV): requirements/dev.txt requirements/run.txt pyproject.toml $(SETUP)
	@scripts/setup-venv.sh $(VENV) requirements/dev.txt
	@touch $(RUN) $@
