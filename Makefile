# Everything starts here: `make demo`, `make reproduce`, `make check`, `make test`, `make docs`. All build .venv first.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
DOCS_STAMP := .venv/.installed-docs
IS_RIGHT := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
# Two processes with one thread each are faster than one with two: most of the tests' work is Python. A file stays
# in one process, because its tests share what they make.
PARALLEL := -n 2 --dist loadfile
# Containers often forbid bytecode; then every process would compile torch and all else again, for seconds.
export PYTHONDONTWRITEBYTECODE =

.PHONY: setup demo reproduce bench check lint types test fuzz wheel test-pythons docs clean

setup: $(STAMP)

# uv takes torch and torchvision from the registry as a matching pair; plain pip may not.
$(STAMP): requirements.txt pyproject.toml
	@$(BIN)/python -c '$(IS_RIGHT)' 2>/dev/null || { rm -rf .venv; \
	  $(PYTHON) -c '$(IS_RIGHT)' || { echo "$(PYTHON) is `$(PYTHON) --version 2>&1`: Python 3.11, 3.12 or 3.13" \
	    "is needed. Name one: make $(or $(MAKECMDGOALS),setup) PYTHON=python3.12" >&2; exit 1; }; \
	  $(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==0.13.8
	$(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e .
	touch $@

demo: setup
	$(BIN)/rs-cache demo

# The paper's tables on the built-in world, three seeds.
reproduce: setup
	$(BIN)/rs-cache reproduce

# Speeds here, side by side with what people use for each part: `make bench NAMES="read train" OUT=FILE.md` is less.
bench: setup
	$(BIN)/python -m benchmarks $(NAMES) $(if $(OUT),--out $(OUT))

test test-pythons: export OMP_NUM_THREADS = 1

test: setup
	$(BIN)/python -m pytest $(PARALLEL)

# Every reader against 40,000 mutants of its files: a few minutes on two cores.
fuzz: setup
	$(BIN)/python -m tests.fuzzing --count 40000 --seed 0 $(if $(OUT),--out $(OUT))

# Lint and types, seconds; CI runs both before the tests.
check: lint types

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/pyrefly check

# Built, installed into an empty environment, and run outside the checkout.
wheel: setup
	RS_SLOW=1 $(BIN)/python -m pytest tests/test_wheel.py

# Every supported Python and the oldest packages; `make test-pythons PYTHONS="3.13 lowest" TESTS=tests/store` is less.
test-pythons: setup
	PYTHONS="$(PYTHONS)" .ci/pythons $(PARALLEL) $(TESTS)

$(DOCS_STAMP): $(STAMP) requirements-optional.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c requirements.txt -c requirements-optional.txt \
	  -r pyproject.toml --extra docs
	touch $@

# The pages of docs/ with the API and the notebooks, which are run: docs/_build/html/index.html. Needs no network.
docs: $(DOCS_STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m sphinx -q --fail-on-warning --keep-going docs docs/_build/html

clean:
	rm -rf .venv .venvs .pytest_cache .ruff_cache .hypothesis build docs/_build *.egg-info
