# make demo | test | lint | env [PYTHON=python3.13]; everything happens in a virtual environment.
PYTHON ?= python3
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
VENV ?= $(if $(filter python3,$(PYTHON)),.venv,.venv-$(VERSION))
BIN := $(VENV)/bin
CONSTRAINTS := constraints/$(if $(filter 3.11,$(VERSION)),py311,py312).txt
WORKDIR ?= runs/digits

.PHONY: env demo test lint format clean

env: $(VENV)/.env

demo: $(VENV)/.env
	$(BIN)/python main.py --mode train,sample,likelihood,evaluate \
	    --config configs/digits.py --workdir $(WORKDIR)

test: $(VENV)/.env-test
	$(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/.env-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.env-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .venv-* tests/.jax_cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "score_sde needs Python 3.11 or newer, $(PYTHON) is $(VERSION): make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@echo "making $(VENV) with Python $(VERSION)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.env: $(BIN)/python setup.cfg $(CONSTRAINTS)
	@echo "installing the dependencies of score_sde (about a minute)"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c $(CONSTRAINTS) -e .
	@touch $@

$(VENV)/.env-test: $(VENV)/.env
	@echo "installing what the tests need"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c $(CONSTRAINTS) -e '.[test]'
	@touch $@
