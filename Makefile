# make demo | demo-text | test | test-long | test-oldest | test-newest | mutants | lint | types | docs |
# benchmarks-small | sbom | audit | env
# [PYTHON=python3.13]; everything happens in a virtual environment.
PYTHON ?= python3
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
VENV ?= $(if $(filter python3,$(PYTHON)),.venv,.venv-$(VERSION))
BIN := $(VENV)/bin
CONSTRAINTS := constraints/$(if $(filter 3.11,$(VERSION)),py311,py312).txt
WORKDIR ?= runs/digits
# of mutants
N ?= 300
SEED ?= 0
# those of the peers need packages that are not in the environment
BENCHMARKS := $(filter-out benchmarks/command.py benchmarks/peer%,$(wildcard benchmarks/*.py))

LONG := tests/long tests/published

# the lowest versions that setup.cfg allows; what is tested with them and with the newest ones, with
# the shapes and dtypes of all signatures checked, which takes a third more time
OLDEST := $(shell sed -n 's/^    \([a-z_-]*\)>=\([0-9.]*\).*/\1==\2/p' setup.cfg)
PARTS := $(addprefix tests/,codecs conditioning processes/test_gaussian.py long/models/test_adapters.py \
    sampling/test_grids.py training/test_ema.py training/test_targets.py)
CHECKED := --jaxtyping-packages=score_sde,beartype.beartype
NEWEST := $(firstword $(foreach v,3.14 3.13 3.12,$(shell python$(v) -c 'import venv; print("python$(v)")' 2>/dev/null)) python3)

.PHONY: env demo demo-text test test-long test-oldest test-newest mutants lint types docs benchmarks-small sbom audit format clean

env: $(VENV)/.env

demo: $(VENV)/.env
	$(BIN)/python main.py --mode train,sample,likelihood,evaluate \
	    --config configs/digits.py --workdir $(WORKDIR) $(ARGS)

# an autoencoder, and a transformer that draws what captions of shapes say; 17 minutes of
# processor time
demo-text: SHAPES = $(dir $(WORKDIR))shapes
demo-text: $(VENV)/.env
	$(BIN)/python main.py --mode train --config configs/shapes_autoencoder.py \
	    --workdir $(SHAPES)_autoencoder
	$(BIN)/python main.py --mode encode --config configs/shapes.py --workdir $(SHAPES) \
	    --config.codec="autoencoder(workdir='$(SHAPES)_autoencoder')"
	$(BIN)/python main.py --mode train,evaluate --config configs/shapes.py --workdir $(SHAPES) \
	    --config.codec="autoencoder(workdir='$(SHAPES)_autoencoder')" \
	    --config.data="encoded(path='$(SHAPES)/encoded')"

test: $(VENV)/.env-test
	$(BIN)/python -m pytest $(or $(ARGS),tests $(addprefix --ignore=,$(LONG)))

# what takes minutes: the notebooks, trainings whose result is read back, tests that compile much, and
# the numbers of other people's networks
test-long: $(VENV)/.env-app
	$(BIN)/python -m pytest notebooks $(LONG)

test-oldest:
	@$(PYTHON) -m venv --clear .venv-oldest
	@.venv-oldest/bin/python -m pip install -qq --no-compile --disable-pip-version-check $(OLDEST) -e '.[test]'
	.venv-oldest/bin/python -m pytest $(CHECKED) $(PARTS) -W ignore::DeprecationWarning  # of old packages among themselves

# past the bounds of setup.cfg, which pip then complains of
test-newest:
	@$(NEWEST) -m venv --clear .venv-newest
	@.venv-newest/bin/python -m pip install -qq --no-compile --disable-pip-version-check -e '.[test]'
	@.venv-newest/bin/python -m pip install -qq --no-compile --disable-pip-version-check -U \
	    jax jaxlib flax optax orbax-checkpoint diffrax jaxtyping numpy
	@.venv-newest/bin/python -c 'import sys, flax, jax; print("Python", sys.version.split()[0], "jax", jax.__version__, "flax", flax.__version__)'
	.venv-newest/bin/python -m pytest $(CHECKED) $(PARTS)

# N changes of the code, one at a time, drawn by SEED, and whether a test fails with each:
# docs/results/mutants.md. What is judged already is kept in runs/mutants
mutants: $(VENV)/.env-test
	@$(BIN)/python -m pip install -qq --no-compile --disable-pip-version-check -e '.[mutants]'
	$(BIN)/python -m tests.mutation --n $(N) --seed $(SEED) $(ARGS)

lint: $(VENV)/.env-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.env-app
	$(BIN)/pyright --pythonpath $(BIN)/python

# the site, in docs/_build/html; a warning is an error
docs: $(VENV)/.env-docs
	JAX_PLATFORMS=cpu $(BIN)/python -m sphinx -b html -W --keep-going -n -q \
	    -d docs/_build/doctrees docs docs/_build/html
	@echo "the site is docs/_build/html/index.html"

# every benchmark from its start to its end, so short that the figures mean nothing
benchmarks-small: export XLA_FLAGS = $(shell $(BIN)/python -c 'from tests import xla; print(xla.flags(1))')
benchmarks-small: $(VENV)/.env
	$(BIN)/python main.py --mode train --config configs/digits_classes.py \
	    --workdir runs/small/classes --config.train.steps=2
	$(BIN)/python main.py --mode train --config configs/digits_classifier.py \
	    --workdir runs/small/classifier --config.train.steps=2
	$(BIN)/python main.py --mode train --config configs/moving_shapes.py \
	    --workdir runs/small/moving_shapes --config.train.steps=2
	printf '%s\n' $(BENCHMARKS) | xargs -I{} -P 2 $(BIN)/python {} --small

# every package of the environment, in CycloneDX's JSON
sbom: $(VENV)/.env .venv-audit/.env
	.venv-audit/bin/cyclonedx-py environment --output-reproducible -o sbom.json $(BIN)/python

# those with known vulnerabilities
audit: $(VENV)/.env .venv-audit/.env
	@.venv-audit/bin/python .ci/audit.py $(abspath $(BIN)/python)

# its packages are not among those that are listed
.venv-audit/.env: setup.cfg
	@$(PYTHON) -m venv .venv-audit
	@.venv-audit/bin/python -m pip install -qq --disable-pip-version-check cyclonedx-bom pip-audit
	@touch $@

format: $(VENV)/.env-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .venv-* dist sbom.json tests/.jax_cache docs/_build docs/*/generated

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

$(VENV)/.env-app: $(VENV)/.env-test
	@echo "installing what the page of mode app needs"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c $(CONSTRAINTS) -e '.[app,browser]'
	@touch $@

$(VENV)/.env-docs: $(VENV)/.env
	@echo "installing what the site needs"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c $(CONSTRAINTS) -e '.[docs]'
	@touch $@
