PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
SPACE ?= resnet.yaml

.PHONY: study test test-ray test-rest test-slow test-faults test-gpu bench bench-amounts bench-rungs bench-search bench-sprint bench-time lint clean

# Install, fetch the data, run the study and make its page.
study: $(VENV)/installed
	$(BIN)/python -m study.run --space $(SPACE); status=$$?; \
	  [ $$status -gt 1 ] || $(BIN)/python -m analysis.report && exit $$status

# Install and run every test but the slow ones and those that need a GPU; those that need Ray beside the others.
test: $(VENV)/installed-test
	$(MAKE) -k -j 2 lint test-ray test-rest

test-ray: $(VENV)/installed-test
	$(BIN)/python -m pytest -m "ray and not slow and not faults and not gpu"

test-rest: $(VENV)/installed-test
	$(BIN)/python -m pytest -m "not ray and not slow and not faults and not gpu"

test-slow: $(VENV)/installed-test
	$(BIN)/python -m pytest -m slow

test-faults: $(VENV)/installed-test
	$(BIN)/python -m pytest -s -m faults

test-gpu: $(VENV)/installed-test
	$(BIN)/python -m pytest -m gpu

# Measures rates and overheads; writes results/benchmarks.
bench: $(VENV)/installed-test
	for part in training accuracy overhead allocator stress intervals; do $(BIN)/python tests/benchmarks/$$part.py || exit; done

# Half an hour of a core; what analysis/corruptions.py takes its amounts from.
bench-amounts: $(VENV)/installed-test
	$(BIN)/python tests/benchmarks/amounts.py

# Some hours; goes on where it was cut off. Takes bench's rates.
bench-search: $(VENV)/installed-test
	$(BIN)/python tests/benchmarks/searching.py

# Half an hour; goes on where it was cut off. Space.grace_period rests on it.
bench-rungs: $(VENV)/installed-test
	$(BIN)/python tests/benchmarks/rungs.py

# Less than an hour; goes on where it was cut off.
bench-sprint: $(VENV)/installed-test
	$(BIN)/python tests/benchmarks/sprint.py

# Some hours; goes on where it was cut off.
bench-time: $(VENV)/installed-test
	$(BIN)/python tests/benchmarks/time_to_accuracy.py

lint: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/bin/pip:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml constraints.txt | $(VENV)/bin/pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

# With what a study needs, in one go.
$(VENV)/installed-test: pyproject.toml constraints.txt | $(VENV)/bin/pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .[test]
	touch $(VENV)/installed $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
