# make demo         a first sweep on embedded images: minutes, no data, no GPU
# make test         the tests that any machine can run
# make test-slurm   those that need SLURM: as root, after slurm/cluster.sh up
# make test-ray     those that start Ray clusters
# make bench        every figure of benchmarks/README.md that takes no other machine: 15 minutes; let nothing else run
# make check        lint, format and types
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-slurm test-ray bench check install
demo: install
	$(BIN)/moleflow-sweep sweeps/v7_gamma.yaml --base demo

test: install
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slurm and not chaos and not ray"

test-slurm: install
	eval "$$(slurm/cluster.sh env)" && $(BIN)/python -m pytest -m "slurm or chaos"

test-ray: install
	$(BIN)/python -m pytest -m ray

bench: install
	$(BIN)/python benchmarks/step.py
	$(BIN)/python benchmarks/metrics.py
	$(BIN)/python benchmarks/overhead.py --quick
	$(BIN)/python benchmarks/sweep.py --only 5 --without c

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "setting up $(VENV): 2.5 GB, minutes"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' -c constraints.txt
	touch $@
