# Everything starts here: `make demo`, `make reproduce`, `make test`. All build .venv first.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: setup demo reproduce test fuzz lint clean

setup: $(STAMP)

# uv takes torch and torchvision from the registry as a matching pair; plain pip may not.
$(STAMP): requirements.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==0.13.8
	$(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e .
	touch $@

demo: setup
	$(BIN)/rs-cache demo

# The paper's tables on the built-in world, three seeds.
reproduce: setup
	$(BIN)/rs-cache reproduce

test: setup
	$(BIN)/python -m pytest

# Every reader against 40,000 mutants of its files: a few minutes on two cores.
fuzz: setup
	$(BIN)/python -m tests.fuzzing --count 40000 --seed 0 $(if $(OUT),--out $(OUT))

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check

clean:
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis build *.egg-info
