PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test ray own quick soak lint clean

# the whole chain on embedded defaults
demo: $(VENV)/installed
	$(BIN)/raypose demo

# everything, campaigns with a round or two; one part after another: side by side they take longer
# on two cores, as each then waits for what it starts
test: $(VENV)/installed
	@$(MAKE) --keep-going quick ray own

# what needs a Ray cluster, all in one
ray: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/pytest -m ray

# what starts Ray of its own
own: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/pytest -m own

# what needs no Ray, in both cores
quick: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "not ray and not own" --numprocesses 2 --dist worksteal

# the campaigns alone, many rounds of each: RAYPOSE_ROUNDS=50 make soak
soak: $(VENV)/installed
	RAYPOSE_ROUNDS=$${RAYPOSE_ROUNDS:-20} $(BIN)/pytest -m campaign -s

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# what is used is compiled when it is first used: a minute less than to compile all
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) raypose-demo
