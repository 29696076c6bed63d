# `make demo` shows the exporter on real workers, `make test` proves it. Both set up all they need.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
PYTEST := -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder
LOCK := $(BIN)/uv pip compile --quiet --universal --no-annotate --no-header --generate-hashes \
	--python-version 3.11 --upgrade

.PHONY: help demo stack test check test-vm test-gpu test-lowest bench soak golden docs dashboards lock format wheel clean

help:
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 20

demo: $(VENV)/.run ## launch a few workers and watch them on /metrics
	@$(BIN)/worker-sidecar demo

stack: ## exporter, Prometheus, Alertmanager and Grafana of this host, with Docker
	docker compose up --detach --build --wait

test: $(VENV)/.dev ## unit, golden and real-cgroup tests
	$(BIN)/python $(PYTEST)

check: $(VENV)/.dev ## lint, format, types, import layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy exporter dashboards tests bench deploy/compose/setup/setup.py
	$(BIN)/lint-imports

test-vm: $(VENV)/.dev ## the exporter against a booted Debian with systemd (needs QEMU, mmdebstrap)
	$(BIN)/python $(PYTEST) --timeout 3400 tests/vm

test-gpu: $(VENV)/.dev ## the exporter against nvidia-smi, on a machine with an NVIDIA GPU
	$(BIN)/python -m pytest -s tests/gpu

test-lowest: $(VENV)/.run ## unit and golden tests with the oldest libraries that pyproject.toml allows
	$(PIP) uv
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python build/lowest
	$(BIN)/uv pip install --quiet --python build/lowest/bin/python --resolution lowest-direct --editable .
	$(BIN)/uv pip install --quiet --python build/lowest/bin/python \
		pytest pytest-timeout pytest-xdist hypothesis
	build/lowest/bin/python $(PYTEST) tests/unit tests/golden

bench: $(VENV)/.dev ## cost of a scrape against the kernel's own
	$(BIN)/python -m bench.scrape

soak: $(VENV)/.dev ## 1,000 workers scraped every second by a real Prometheus for ten minutes
	$(BIN)/python -m bench.soak

golden: $(VENV)/.dev ## renew the golden files of tests/golden; read the diff
	$(BIN)/python -m tests.golden

docs: $(VENV)/.run ## renew docs/metrics.md from the table of families
	$(BIN)/python -m worker_exporter.metrics.reference > docs/metrics.md

dashboards: $(VENV)/.dev ## renew dashboards/json from dashboards/*.py
	$(BIN)/python -m dashboards

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel: $(VENV)/.run ## build the wheel into dist/
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

lock: $(VENV)/.run ## renew requirements/*.txt from pyproject.toml
	$(PIP) uv
	$(LOCK) pyproject.toml -o requirements/run.txt
	$(LOCK) --extra dev -c requirements/run.txt pyproject.toml -o requirements/dev.txt
	echo hatchling | $(LOCK) - -o requirements/build.txt

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "make: $(PYTHON) is older than 3.11; name another: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
		{ rm -rf $(VENV); echo "make: no virtual environment; on Debian: apt install python3-venv"; exit 1; }

$(VENV)/.run: $(BIN)/python requirements/run.txt pyproject.toml
	@echo "setting up $(VENV) ..."
	@$(PIP) --requirement requirements/run.txt
	@$(PIP) --no-deps --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.run requirements/dev.txt
	@$(PIP) --requirement requirements/dev.txt
	@touch $@
