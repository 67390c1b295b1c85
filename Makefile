# Each target makes what it needs in .venv; Python 3.11 or newer and make are all there has to be.
#
#   make quickstart                  train on the digits that come along; each time a new run in runs/
#   make test                        all tests; some of them: make test TESTS=tests/unit
#   make faults                      20 runs on several nodes, in each of which something is killed; takes Linux and root
#   make check                       lint, format, types, import layers
#   make bench                       benchmarks of this project against its peers, as ratios
#   make clean                       remove .venv and caches; runs/ stays
#
# Settings, given as in `make quickstart TORCH_INDEX=cpu`:
#
#   PYTHON       the Python that .venv is made with
#   TORCH_INDEX  which build of PyTorch, by its folder in download.pytorch.org/whl/: `cpu` spares a machine without a
#                GPU several GB of CUDA on Linux. Empty: what PyPI has. It counts when .venv is made.

PYTHON ?= python3
TORCH_INDEX ?=
TESTS ?= tests

BIN := .venv/bin
INSTALLED := .venv/.installed
BENCHED := .venv/.installed-bench
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

# What is wrong with $(PYTHON), in words; empty if nothing is.
COMPLAINT = $(shell $(PYTHON) -c 'import sys; print("is " + sys.version.split()[0] if sys.version_info < (3, 11) else "ok")' 2>/dev/null \
	|| echo 'does not run')
HAS_VENV = $(shell $(PYTHON) -c 'import ensurepip, venv; print("yes")' 2>/dev/null)

.PHONY: quickstart test faults check bench clean

quickstart: $(INSTALLED)
	$(BIN)/augft train --run-dir runs/quickstart-$$(date +%Y%m%d-%H%M%S)

test: $(INSTALLED)
	@$(BIN)/python -m pytest $(TESTS)

faults: $(INSTALLED)
	@AUGFT_FAULTS=20 $(BIN)/python -m pytest tests/cluster/test_hosts_faults.py

check: $(INSTALLED)
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check --quiet
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports --no-logo >.venv/.imports 2>&1 || { cat .venv/.imports; exit 1; }

bench: $(BENCHED)
	$(BIN)/python benchmarks/augment.py
	$(BIN)/python benchmarks/warp.py
	$(BIN)/python benchmarks/device.py
	$(BIN)/python benchmarks/composition.py
	$(BIN)/python benchmarks/stream.py
	$(BIN)/python benchmarks/train.py
	$(BIN)/python benchmarks/precision.py

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache build dist
	find augft tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): pyproject.toml
	$(if $(filter ok,$(COMPLAINT)),,$(error $(PYTHON) $(COMPLAINT): augft needs Python 3.11 or newer; name one as in `make PYTHON=python3.12`))
	$(if $(HAS_VENV),,$(error $(PYTHON) has no venv: install it (Debian, Ubuntu: apt-get install python3-venv), or name another as in `make PYTHON=python3.12`))
	@echo "setting up .venv: minutes at the first time, PyTorch is large (without a GPU: TORCH_INDEX=cpu)"
	@$(PYTHON) -m venv .venv
	@$(if $(TORCH_INDEX),$(PIP) torch torchvision --index-url https://download.pytorch.org/whl/$(TORCH_INDEX))
	@$(PIP) -e '.[test]'
	@touch $@

$(BENCHED): $(INSTALLED)
	@$(PIP) -e '.[bench]'
	@touch $@
