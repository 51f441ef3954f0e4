# Everything a stranger or CI does here is one of these targets; `make help` lists
# them. Set-up happens once, in .venv, and again only when its inputs change.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
SCANNERS := .cache/scanners/.ready
CLIENTS  := .cache/clients/.ready
PIP    := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

# How many files `make fuzz` and `make tamper` change, from which seed, in how many
# processes; how many draws `make chances` makes.
fuzz: COUNT ?= 1000000
tamper: COUNT ?= 20000
chances: COUNT ?= 20
SEED  ?= 0
JOBS  ?= 2

# CI sets this to run the suite once, under coverage.
UNDER ?=
# Layers 0 and 1: what decides about a file.
DECIDING := safemodel/errors.py,safemodel/limits.py,safemodel/policy.py,safemodel/reports.py,safemodel/_types.py,safemodel/_value.py,safemodel/_containers/*,safemodel/_unpickle/*,safemodel/_graph/*

# What tests loops that numba compiles, directly or through what calls them. Those of
# the permutation are LLVM's only, and always checked: docs/adr/0021.
KERNELS := tests/unit/kernels/test_bits.py tests/unit/test_scrub.py tests/unit/test_evaluation.py

.DEFAULT_GOAL := help
.PHONY: help setup demo test chances kernels coverage gate bench growth scrub results train detection-results test-clients kill lint format typecheck docs-check zoo fuzz tamper clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 22

setup: $(READY)  ## create .venv and install the package with pinned versions

# torch comes first and alone, without dependencies: should pip find a CUDA build,
# set-up stops before gigabytes of CUDA packages are fetched.
$(READY): pyproject.toml constraints.txt tools/no_cuda.py
	@echo "== set-up: $(VENV) (once; a few minutes)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; try make PYTHON=python3.11")'
	@$(PYTHON) -m venv $(VENV)
	@echo "== set-up: torch"
	@$(PIP) setuptools
	@$(PIP) --no-deps torch==2.13.0
	@$(BIN)/python tools/no_cuda.py
	@echo "== set-up: safemodel and its tools"
	@$(PIP) --no-build-isolation --editable '.[test,dev]'
	@$(BIN)/python tools/no_cuda.py
	@touch $@

demo: $(READY)  ## build a real checkpoint and a hostile twin, and open both safely
	@echo "== demo: examples/demo.py"
	@$(BIN)/python examples/demo.py

test: $(READY)  ## run the test suite
	@echo "== test: pytest"
	$(BIN)/python $(UNDER) -m pytest

chances: $(READY)  ## run the tests of chance alone, each with COUNT=20 new draws
	@echo "== chances: $(COUNT) draws a test"
	$(BIN)/python -m pytest --draws $(COUNT)

kernels: $(READY)  ## run the tests of compiled loops without compiling, and with bounds checked
	@echo "== kernels: not compiled, then with bounds checked"
	NUMBA_DISABLE_JIT=1 $(BIN)/python $(UNDER) -m pytest $(KERNELS)
	NUMBA_BOUNDSCHECK=1 $(BIN)/python -m pytest $(KERNELS)

coverage: $(READY)  ## run the test suite, and measure which branches it takes
	@$(MAKE) test UNDER='-m coverage run'
	@$(MAKE) gate

gate: $(READY)  ## fail if the last measured run took too few branches
	@echo "== gate: every branch of what decides, 95 % of the package"
	$(BIN)/python -m coverage report --fail-under=100 --include='$(DECIDING)'
	$(BIN)/python -m coverage report --fail-under=95

bench: $(READY)  ## measure against torch, safetensors and picklescan; write benchmarks/RESULTS.md
	@echo "== bench: benchmarks/report.py (about 40 minutes, 20 GB of disk, 16 GB of memory)"
	$(BIN)/python benchmarks/report.py

growth: $(READY)  ## measure how time grows with hostile files; write benchmarks/GROWTH.md
	@echo "== growth: benchmarks/growth.py (a few minutes)"
	$(BIN)/python benchmarks/growth.py

scrub: $(READY)  ## train two networks and measure scrubbing; write the tables of docs/scrub.md
	@echo "== scrub: tools/scrub_accuracy.py (a few minutes)"
	$(BIN)/python tools/scrub_accuracy.py

# Scanners to compare with: nothing here imports them, and what they need does not fit
# what the package needs. Each dependency is pinned, so pip resolves nothing.
$(SCANNERS): tools/scanners.txt
	@echo "== set-up: .cache/scanners"
	@$(PYTHON) -m venv .cache/scanners
	@.cache/scanners/bin/python -m pip --disable-pip-version-check install --quiet --no-deps --requirement tools/scanners.txt
	@touch $@

results: $(READY) $(SCANNERS)  ## disarm all files and compare scanners; write docs/disarm-results.md
	@echo "== results: tools/disarm_results.py (about half an hour)"
	$(BIN)/python tools/disarm_results.py

detection-results: $(READY)  ## train networks and measure detect; write docs/detection-results.md
	@echo "== detection-results: benchmarks/bench_detect.py (about an hour; it goes on where it was stopped)"
	$(BIN)/python training/networks.py --held-out -j $(JOBS)
	-$(BIN)/python training/packages.py --side test
	$(BIN)/python benchmarks/bench_detect.py -j $(JOBS)

# Libraries that load models with torch, joblib and pandas, in their newest releases.
# torch comes first and alone, as above; each dependency is pinned, so pip resolves nothing.
$(CLIENTS): tools/clients.txt tools/no_cuda.py
	@echo "== set-up: .cache/clients (once; a few minutes, 1.8 GB)"
	@$(PYTHON) -m venv .cache/clients
	@.cache/clients/bin/python -m pip --disable-pip-version-check install --quiet --no-deps $$(grep '^torch==' tools/clients.txt)
	@.cache/clients/bin/python tools/no_cuda.py
	@.cache/clients/bin/python -m pip --disable-pip-version-check install --quiet --no-deps --requirement tools/clients.txt
	@.cache/clients/bin/python tools/no_cuda.py
	@touch $@

test-clients: $(CLIENTS)  ## real clients under legacy mode, in an environment of their own; write docs/clients.md
	@echo "== test-clients: tools/clients.py (a few minutes)"
	.cache/clients/bin/python tools/clients.py

lint: $(READY)  ## ruff check and ruff format --check
	@echo "== lint: ruff"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY)  ## let ruff fix and format the tree
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

typecheck: $(READY)  ## mypy --strict on the package and on tests/typing
	@echo "== typecheck: mypy"
	$(BIN)/mypy --strict safemodel tests/typing/api.py

docs-check: $(READY)  ## run every example and command shown in README and docs
	@echo "== docs-check: tests/test_docs.py"
	$(BIN)/python -m pytest tests/test_docs.py

train: $(READY)  ## train networks and the bundled detector on them; write MODEL_CARD.md
	@echo "== train: training/networks.py, packages.py, detector.py (about an hour of two cores)"
	$(BIN)/python training/networks.py -j $(JOBS)
	-$(BIN)/python training/packages.py --side train
	$(BIN)/python training/detector.py -j $(JOBS)

kill: $(READY)  ## kill disarm, protect, restore and rotate at 90 random moments
	@echo "== kill: tools/kill_disarm.py (about three minutes, 3 GB of disk)"
	$(BIN)/python tools/kill_disarm.py
	@echo "== kill: tools/kill_protect.py (about four minutes, 3 GB of disk)"
	$(BIN)/python tools/kill_protect.py

zoo: $(READY)  ## regenerate docs/compatibility.md from the files in ../shared/zoo
	@echo "== zoo: tools/compatibility.py"
	$(BIN)/python tools/compatibility.py

fuzz: $(READY)  ## mutate COUNT=1000000 files from SEED=0; only our errors may come out
	@echo "== fuzz: $(COUNT) files from seed $(SEED)"
	$(BIN)/python -m tests.fuzz.run --count $(COUNT) --seed $(SEED) --jobs $(JOBS)

tamper: $(READY)  ## change COUNT=20000 protected files, and 2000 folders; each must be refused
	@echo "== tamper: $(COUNT) files from seed $(SEED)"
	$(BIN)/python -m tests.fuzz.protected --count $(COUNT) --seed $(SEED) --jobs $(JOBS)
	$(BIN)/python -m tests.fuzz.protected_folders --count 2000 --seed $(SEED) --jobs $(JOBS)

clean:  ## remove .venv, caches and generated models
	@echo "== clean"
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache .benchmarks build dist *.egg-info
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
