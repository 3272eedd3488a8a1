# `make sweep`: set-up and the main job. `make test`: set-up and the tests. A second call installs nothing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: sweep test lint clean

sweep: $(STAMP)
	$(BIN)/python sweeps/max_prune.py --family qwen --profile pocket

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

lint: $(STAMP)
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

# constraints.txt pins torch to the version whose CPU build is used here; a GPU user runs `pip install -e .` instead.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "SLAMLab needs Python 3.11 or newer: pass PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (2 to 4 minutes, 3 GB) ..."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[pocket,test]' -c constraints.txt
	@touch $@

clean:
	rm -rf $(VENV)
