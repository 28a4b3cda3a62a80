# The two commands for a fresh clone with Python 3.11 and git are `make run` and `make test`.
PYTHON ?= python3.11
VENV ?= .venv
OBJECTIVE ?= helpful
# the folder that `make real` makes a study in, and changes to its params.yaml: `make real SET='model.smollm2.id=...'`
REAL ?= ../topoflow-smollm2
SET ?=
# processes that run tests, each file in one of them
WORKERS ?= 2
# installed once for each content of the lock file and pyproject.toml
READY = $(VENV)/.installed
ACTIVE = PATH="$(abspath $(VENV))/bin:$$PATH"

.PHONY: run real test test-fast test-4bit lint docs ui

run: $(READY) ## one objective end to end on the bundled model
	$(ACTIVE) mlflow run . --env-manager local -P objective=$(OBJECTIVE)
	@echo
	@echo "Look at the run:  make ui   then open http://127.0.0.1:5000/#/experiments/0?workflowType=machine_learning"

ui: $(READY)
	$(ACTIVE) mlflow ui --host 127.0.0.1 --port 5000

real: $(READY) ## the study of docs/studies/smollm2.md, with its controls: about 90 minutes on two cores, resumed if interrupted
	test -e $(REAL)/params.yaml || $(ACTIVE) topoflow init $(REAL) --preset smollm2_hh $(if $(SET),--set "$(SET)")
	cd $(REAL) && $(ACTIVE) dvc repro && $(ACTIVE) topoflow report

test: $(READY) ## all tests; files with the longest ones first, so that no worker waits for them at the end
	$(ACTIVE) python -m pytest -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder --durations 10 \
		tests/integration tests/test_packaging.py tests/training/test_models.py tests/faults tests topoflow

test-fast: $(READY) ## the tests without the slow ones
	$(ACTIVE) python -m pytest -q -n $(WORKERS) --dist loadfile -m "not slow and not real"

# bitsandbytes makes each import of peft a second slower: it is installed beside the environment, for these tests alone
BITS = .topoflow/4bit
test-4bit: $(READY) ## the tests of 4-bit bases
	$(VENV)/bin/python -m pip install --quiet --no-deps --upgrade --target $(BITS) bitsandbytes==0.50.2
	$(ACTIVE) PYTHONPATH="$(abspath $(BITS))" python -m pytest -q -k "four_bits or 4" \
		tests/integration/test_four_bits.py tests/recording/test_trainers.py tests/recording/test_hidden_states.py tests/training/test_models.py

lint: $(READY)
	$(ACTIVE) ruff check .
	$(ACTIVE) ruff format --check .
	$(ACTIVE) mypy

docs: $(READY) ## the documentation, into site/
	$(ACTIVE) NO_MKDOCS_2_WARNING=1 mkdocs build --strict

$(READY): requirements.lock pyproject.toml
	@echo "Setting up $(VENV): some minutes, and 3 GB of disk"
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --use-pep517 --requirement requirements.lock
	$(VENV)/bin/python -m pip install --quiet --no-deps --editable .
	$(VENV)/bin/python -c "$$COMPILE"
	touch $@

# compile the numba code once, at installation (half a minute), so that the first run is not slower
define COMPILE
import numpy, topoflow
point_cloud = numpy.random.default_rng(0).normal(size=(40, 3))
diagram = topoflow.vietoris_rips_diagrams(point_cloud)[1]
topoflow.wasserstein_distance(diagram, diagram[1:])
endef
export COMPILE
