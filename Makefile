# Targets that work from a bare machine with Python >= 3.11: `make demo`, `make test`, and `make soak`, which takes longer.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
OUT    ?= out/demo

# Wheels that pip is told to look for in a folder (PIP_FIND_LINKS) are offered to uv as well.
LINKS  := $(if $(PIP_FIND_LINKS),--find-links "$(PIP_FIND_LINKS)")

# Compiled modules are kept: the scientific stack takes half a minute to import without them.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test soak baselines lint docs links clean

demo: $(STAMP)
	$(BIN)/python -m stpredict demo $(if $(DATA),--data "$(DATA)") --out "$(OUT)"

# One thread for each of the two workers: more of them would wait for each other. Numba, which scanpy uses, shares its
# pool with torch and would set it to all cores.
test: export OMP_NUM_THREADS ?= 1
test: export NUMBA_NUM_THREADS ?= $(OMP_NUM_THREADS)
test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# The damaged files of `tests/faults`, many more of them.
soak: $(STAMP)
	PYTHONPATH=tests $(BIN)/python -m faults --n 10000
	$(BIN)/python benchmarks/kills.py --kills 100

# The pictures that figures are compared with; look at each before it is committed.
baselines: $(STAMP)
	$(BIN)/python tests/pl/test_pictures.py

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy src

docs: $(STAMP)
	$(BIN)/python -m sphinx -W --keep-going -j 2 -b html docs docs/_build/html

# Whether the addresses in the pages answer; needs the network.
links: $(STAMP)
	$(BIN)/python -m sphinx -b linkcheck -D nb_execution_mode=off docs docs/_build/links

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python $(LINKS) -c constraints.txt -e '.[encoders,wsi,survival,cnv,viz]' --group dev
	touch $@

clean:
	rm -rf $(VENV) out docs/_build docs/_generated docs/generated docs/gallery docs/tutorials
