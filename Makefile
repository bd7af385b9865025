# Needs Python >= 3.11 and GNU make >= 3.81. Everything else goes into .venv, once.
.DEFAULT_GOAL := help
.PHONY: run test check audit fmt soak bench lock clean help

# Candidates, tried in this order; `make PYTHON=/path/to/python3.12` names one.
PYTHON ?= python3.13 python3.12 python3.11 python3
# Arguments for the command behind a target: `make test ARGS="-k recall"`, `make run ARGS="--port 9000"`.
ARGS ?=
# Test processes: on two cores four still overlap their waits for Postgres; each takes about 3 s of CPU to start.
WORKERS ?= 4

bin := .venv/bin
stamp := .venv/.installed
new_enough := -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null

run: $(stamp) ## serve http://localhost:9595 (SFM_* settings pass through)
	@exec $(bin)/sfm serve $(ARGS)

test: $(stamp) ## the whole suite
	@$(bin)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

check: $(stamp) ## lint, format, types, import contract, schema drift
	@$(bin)/ruff check .
	@$(bin)/ruff format --check .
	@$(bin)/mypy
	@$(bin)/lint-imports --no-logo --no-cache
	@$(bin)/sfm schema --check

audit: $(stamp) ## unsafe code, known vulnerabilities of what requirements.txt pins
	@$(bin)/bandit --quiet --recursive --configfile pyproject.toml sfm_graph consumers/sfm_consumers
	@$(bin)/python .ci/audit.py

fmt: $(stamp) ## format and fix what can be fixed
	@$(bin)/ruff check --fix .
	@$(bin)/ruff format .

soak: $(stamp) ## long load and fault runs
	@$(bin)/python -m pytest tests/soak -m soak $(ARGS)

bench: $(stamp) ## benchmarks, as JSON
	@PATH="$$PATH:$(bin)" uv pip install --quiet --python $(bin)/python --group bench
	@$(bin)/python -m benchmarks $(ARGS)

lock: $(stamp) ## resolve requirements.txt again from pyproject.toml (ARGS=--upgrade for newer releases)
	@PATH="$$PATH:$(bin)" uv pip compile pyproject.toml --extra fastembed --extra qdrant --group dev --universal --python-version 3.11 \
	    --custom-compile-command 'make lock' --quiet --output-file requirements.txt $(ARGS)

clean: ## remove .venv, caches and builds; never data
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis dist
	@find sfm_graph consumers tests benchmarks -name __pycache__ -prune -exec rm -rf {} +

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-6s %s\n", $$1, $$2 }' Makefile

# Each candidate is run, not only looked up: a version manager's shim exists for versions it does not have.
# `uv venv` and `python -m venv` differ in one thing here: only the second leaves a pip behind.
$(stamp): pyproject.toml consumers/pyproject.toml requirements.txt
	@set -e; fail() { echo "make: $$*" >&2; exit 1; }; \
	if ! $(bin)/python $(new_enough); then \
	    python=; \
	    for candidate in $(PYTHON); do \
	        if "$$candidate" $(new_enough); then python=$$("$$candidate" -c 'import sys; print(sys.executable)'); break; fi; \
	    done; \
	    [ -n "$$python" ] || fail 'no Python >= 3.11 among: $(PYTHON). Install one, or name it: make PYTHON=/path/to/python'; \
	    echo "Creating .venv with $$python" >&2; rm -rf .venv; \
	    if command -v uv >/dev/null; then uv venv --quiet --python "$$python" .venv; \
	    else "$$python" -m venv .venv || { rm -rf .venv; fail 'this Python cannot make a venv. Install its venv package (Debian: python3-venv), or uv'; }; fi; \
	fi; \
	echo 'Installing what requirements.txt pins into .venv' >&2; \
	if command -v uv >/dev/null; then uv=uv; else uv=$(bin)/uv; \
	    $(bin)/python -m pip --version >/dev/null 2>&1 || $(bin)/python -m ensurepip >/dev/null \
	        || fail 'no pip in .venv and no ensurepip. Install uv, or run: make clean'; \
	    $(bin)/python -m pip install --quiet --disable-pip-version-check uv; \
	fi; \
	"$$uv" pip install --quiet --python $(bin)/python --requirement requirements.txt; \
	"$$uv" pip install --quiet --python $(bin)/python --no-deps --no-build-isolation --editable . \
	    --editable ./consumers; \
	touch $@
