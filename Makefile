# What a developer runs. `make setup` once; the others do it first where it is needed.

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.complete

.PHONY: setup test test-full lint format demo docs clean

setup: $(STAMP)

# The stamp is written last, so an interrupted installation is repeated.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "expected Python 3.11 or newer as $(PYTHON); try: make setup PYTHON=python3.12"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench,docs,models,test,lint]'
	touch $(STAMP)

test: setup
	$(BIN)/python -m pytest -q

# The long form of sampled tests: 1,200 of JAX's own operation tests, every transformation with every function.
test-full: setup
	$(BIN)/python -m pytest -q --full

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

demo: setup
	$(BIN)/python -m tilewright.bench.demo

# Warnings are errors: a broken link, a page that is in no menu, a docstring that can't be read.
docs: setup
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --fresh-env docs build/docs
	@echo 'open build/docs/index.html'

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
