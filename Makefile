# setup: an environment in .venv with exact versions.   demo: the whole story on real data.
# test: all tests but those marked slow.   slow: these.   check: all that CI runs.   soak: hours of faults.
# docs: the documentation as a site.   bench: the benchmarks.   up: start the server.
.PHONY: setup prefetch demo test slow check static docs wheel generate bench soak up clean

PYTHON ?= python3.11
WORKERS ?= auto
BIN := .venv/bin
# Tests start processes by the hundred: Python keeps what it has compiled, whatever the shell says.
unexport PYTHONDONTWRITEBYTECODE

setup: .venv/.ready

.venv/.ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

# The demo's model and conversations; what is here already isn't fetched again.
prefetch: setup
	@$(BIN)/mafunzo demo --fetch-only

demo: setup
	@$(BIN)/mafunzo demo

# auto: one process more than there are cores.
PYTEST := $(BIN)/python -m pytest -n $(WORKERS)

test: setup
	$(PYTEST)

slow: setup
	$(PYTEST) -m slow

# The tests of `test` and of `slow` share one run, so that the cores are busy to its end.
check: static wheel
	$(PYTEST) -m 'not soak'

static: setup docs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/generate.py --check

# Strict: a link that leads nowhere or a page that the navigation lacks is an error. To look at it: python -m http.server -d build/site
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

wheel: setup
	$(BIN)/python tools/check_wheel.py

generate: setup
	$(BIN)/python tools/generate.py

bench: prefetch
	for file in benchmarks/bench_*.py; do $(BIN)/python $$file || exit 1; done

soak: setup
	$(BIN)/python -m pytest -n 0 -m soak --timeout 14400

up: setup
	$(BIN)/mafunzo up

clean:
	rm -rf .venv build dist *.egg-info
