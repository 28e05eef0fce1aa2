# make demo         install, then a first sweep on embedded images: minutes, no data, no GPU
# make test         the tests of every change: at most 3 minutes on two cores
# make test-all     those, and the tests that start processes or take longer: 10 minutes more
# make test-slurm   the tests that need SLURM: as root, after slurm/cluster.sh up
# make test-chaos   harm on a schedule to sweeps of worker processes: 4 minutes
# make test-ray     the tests that start Ray clusters
# make test-crash   harm to one file operation after the other: a sample of 500, 4 minutes
# make test-shared  sweeps on shared filesystems, mounted here: as root, 5 minutes
# make test-anomalib  lists of samples of public data sets, compared with anomalib's: seconds; downloads 1 MB
# make bench        every figure of benchmarks/README.md that needs no other machine: 15 minutes; run nothing else meanwhile
# make bench-gpu    on a machine with a GPU: are its digits right, and how many trials an hour; 15 minutes
# make screenshots  the pictures of the demo's report in docs/: needs chromium and chromium-driver
# make check        lint, format and types
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ANOMALIB := 2.7.0
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
# The files with a mark: to collect all 6,600 tests takes longer than some suites wait.
files_of = $(shell grep -rl 'mark\.$(1)\b' tests --include='test_*.py')

.PHONY: demo test test-all test-process test-slurm test-chaos test-ray test-crash test-shared test-anomalib bench bench-gpu screenshots check install
demo: install
	@MOLEFLOW_COMMAND="make demo" $(BIN)/moleflow-sweep sweeps/v7_gamma.yaml --base demo

test: install
	@echo "Collecting the tests takes about 15 seconds."
	$(PYTEST) -m "not process and not slurm and not chaos and not ray and not shared and not crash and not anomalib"

test-all: test test-process

test-process: install
	$(PYTEST) -m "process and not slurm and not chaos and not ray and not shared and not crash and not anomalib" $(call files_of,process)

test-slurm: install
	eval "$$(slurm/cluster.sh env)" && $(BIN)/python -m pytest -m slurm $(call files_of,slurm)

test-chaos: install
	$(BIN)/python -m pytest -m "chaos and not slurm" tests/chaos

test-ray: install
	$(BIN)/python -m pytest -m ray $(call files_of,ray)

test-crash: install
	$(BIN)/python -m pytest -m crash tests/crash

test-shared: $(VENV)/.installed-shared
	$(PYTEST) -m shared tests/shared

test-anomalib: $(VENV)/anomalib-$(ANOMALIB)
	$(BIN)/python -m pytest -m anomalib tests/anomalib

bench-gpu: install
	$(BIN)/python benchmarks/gpu.py

bench: install
	$(BIN)/python benchmarks/step.py
	$(BIN)/python benchmarks/metrics.py
	$(BIN)/python benchmarks/overhead.py --quick
	$(BIN)/python benchmarks/sweep.py --only 5 --without c

screenshots: demo
	$(BIN)/moleflow-sweep report results/v7_gamma-demo --html > /dev/null
	$(BIN)/python docs/screenshots.py results/v7_gamma-demo/report.html docs

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "Installing moleflow-sweep and its tools into $(VENV): 1 to 5 minutes, 2.5 GB on disk (more with CUDA)."
	@if command -v uv > /dev/null; then \
	    uv venv --allow-existing --python "$(PYTHON)" $(VENV) && \
	    uv pip install --python $(BIN)/python -e '.[dev]' -c constraints.txt; \
	else \
	    $(PYTHON) -m venv $(VENV) && \
	    $(BIN)/python -m pip install --disable-pip-version-check -e '.[dev]' -c constraints.txt; \
	fi
	@touch $@

$(VENV)/.installed-shared: $(VENV)/.installed
	@for program in glusterfs glusterfsd fusermount3 pkg-config gcc; do command -v $$program > /dev/null && pkg-config --exists fuse3 || \
	    { echo "make test-shared: apt-get install glusterfs-server glusterfs-client attr fuse3 libfuse3-dev pkg-config gcc" >&2; exit 1; }; done
	@if command -v uv > /dev/null; then \
	    uv pip install --python $(BIN)/python -e '.[shared]' -c constraints.txt; \
	else \
	    $(BIN)/python -m pip install --disable-pip-version-check -e '.[shared]' -c constraints.txt; \
	fi
	@touch $@

# Its source files alone: no test imports it, so that it needs none of its dependencies.
$(VENV)/anomalib-$(ANOMALIB): $(VENV)/.installed
	@rm -rf $@
	@if command -v uv > /dev/null; then \
	    uv pip install --python $(BIN)/python --target $@ --no-deps anomalib==$(ANOMALIB); \
	else \
	    $(BIN)/python -m pip install --disable-pip-version-check --target $@ --no-deps anomalib==$(ANOMALIB); \
	fi
	@touch $@
