# The words of this house. Each sets up what it needs in .venv; nothing but Python 3.11 or newer, make and git is asked for.

# The first of these that is new enough makes the environment; say `make PYTHON=/path/to/python3.12 ...` for another.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
UV_VERSION := 0.13.9
BIN := .venv/bin
# Workers each take whole files. Some wait for brokers, schedulers and lessons: there is one more of them than
# cores; more than four only fight for memory.
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(min(4, 1 + (os.cpu_count() or 1)))' 2>/dev/null || echo 3)
PYTEST := $(BIN)/python -m pytest
PARALLEL := -n $(WORKERS) --dist loadfile --no-loadscope-reorder

# With it, every start would compile every import again.
unexport PYTHONDONTWRITEBYTECODE
unexport PYTHONPATH
export PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD = 1

.PHONY: help setup demo test quick check format bench docs kafka lock clean
.DEFAULT_GOAL := help

help:  ## Show these words
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1 \t/' | expand -t 16

setup: .venv/dev.stamp  ## Make the environment in .venv, for running and for developing

demo: .venv/run.stamp  ## Run Katmatic attendance with its live page, on a simulated school
	@$(BIN)/katmatic demo

test: .venv/dev.stamp  ## Run every test, and every example in the docs
	@$(PYTEST) $(PARALLEL)

quick: .venv/dev.stamp  ## Run the tests that are not slow: two minutes on two cores
	@$(PYTEST) $(PARALLEL) -m "not slow"

check: .venv/dev.stamp  ## Check form, lint, types, import contracts and the house
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(PYTEST) -q tests/test_house.py

format: .venv/dev.stamp  ## Put the code into its form
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

docs: .venv/dev.stamp  ## Run every code block of the docs and every example in a docstring
	@$(PYTEST) README.md docs src

bench: .venv/dev.stamp  ## Run every benchmark; each prints its figure
	@for file in bench/[a-z]*.py; do \
		[ -e "$$file" ] || continue; echo "== $$file"; $(BIN)/python -m "bench.$$(basename "$$file" .py)" || exit 1; done

kafka: .venv/dev.stamp  ## Start an Apache Kafka by hand, on port 9092 if that is free (Java 17 and Maven)
	@$(BIN)/python -m tests.kafka_broker

lock: .venv/dev.stamp  ## Pin the newest versions that fit pyproject.toml
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --no-header --no-annotate \
		pyproject.toml --extra kafka --extra river --extra parquet --extra plots --extra tensorflow --extra dev \
		-o requirements-dev.txt
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --no-header --no-annotate \
		pyproject.toml --extra kafka --extra river --extra parquet --extra plots -c requirements-dev.txt \
		-o requirements.txt
	echo 'apache-airflow>=3.3,<4' | $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --no-header \
		--no-annotate - -o requirements-airflow.txt

clean:  ## Remove the environment and every cache
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build dist

.venv/bin/uv:
	@test -n "$(PYTHON)" || { echo "katmatic needs Python 3.11 or newer; found: $$(python3 --version 2>&1). \
	Install one, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "katmatic needs Python 3.11 or newer; found: $$($(PYTHON) --version 2>&1)" >&2; exit 1; }
	@$(PYTHON) -m venv .venv || { rm -rf .venv; \
		echo "$(PYTHON) cannot make environments; on Debian or Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

.venv/run.stamp: .venv/bin/uv requirements.txt pyproject.toml
	@$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -r requirements.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@$(BIN)/python -m katmatic.state.compile
	@touch $@

.venv/dev.stamp: .venv/run.stamp requirements-dev.txt
	@$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -r requirements-dev.txt
	@touch $@
