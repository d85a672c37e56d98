# Nothing but Python 3.11 or later, make and the package index is needed; everything goes into .venv.
PYTHON ?= python3
VENV := .venv
RUN := runs/quickstart

.PHONY: help install quickstart comparison ablation test test-slow web web-test docs test-beam test-triton lint format clean

help:
	@echo "make quickstart  train a small model (minutes on a CPU), compare it with bicubic, write $(RUN)/comparison.png"
	@echo "make comparison  train and measure the rival systems at equal expense (hours; goes on where it was stopped)"
	@echo "make ablation    the same for the cases of the paper's ablation"
	@echo "make test        lint, types and tests"
	@echo "make test-slow   the tests that take longer"
	@echo "make web         build the page that enlarges pictures in the browser into web/dist (needs Node.js 20 and npm)"
	@echo "make web-test    test it in Chromium against the commands"
	@echo "make test-beam   test the Apache Beam pipeline in an environment of its own"
	@echo "make test-triton test the export for Triton with NVIDIA's server"
	@echo "make docs        build the site of docs/, with a reference and the page, into site/"
	@echo "make format      format the code"

install: $(VENV)/installed

$(VENV)/installed: requirements.txt setup.py pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "hcflow_tf needs Python 3.11 or later; name one: make PYTHON=python3.12 install" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade pip
	$(VENV)/bin/python -m pip install --quiet -r requirements.txt -e '.[export,dev,docs]'
	@touch $@

quickstart: install
	$(VENV)/bin/python -m hcflow_tf.train --config configs/quickstart.yaml --run-dir $(RUN)
	$(VENV)/bin/python -m hcflow_tf.compare --model $(RUN) -o $(RUN)/comparison.png --overwrite

comparison ablation: install
	$(VENV)/bin/python benchmarks/$@.py --data data

lint: install
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

test: lint
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile

test-slow: install
	$(VENV)/bin/python -m pytest -m slow

web: install web/node_modules/installed
	npm --prefix web run --silent build
	$(VENV)/bin/python web/export_models.py web/dist/models

web/node_modules/installed: web/package-lock.json
	npm --prefix web ci --no-audit --no-fund
	@touch $@

web-test:
	@if command -v npm >/dev/null; then $(MAKE) web && PYTHON=$(abspath $(VENV))/bin/python node --test web/test/all.test.mjs; \
	else echo "web-test skipped: needs Node.js 20 or later with npm"; fi

# Beam wants older versions of packages that others want newer: it gets an environment of its own.
test-beam: .venv-beam/installed
	.venv-beam/bin/python -m pytest tests/test_beam.py

.venv-beam/installed: pyproject.toml
	$(PYTHON) -m venv .venv-beam
	.venv-beam/bin/python -m pip install --quiet -e '.[beam]' pytest
	@touch $@

# NVIDIA's server with its Python backend, which wants an older NumPy; the tests ask it by its client.
test-triton: install .triton/installed
	HCFLOW_TRITON=.triton $(VENV)/bin/python -m pytest -m "slow or not slow" tests/test_triton.py

.triton/installed:
	$(VENV)/bin/python -m pip install --quiet --target .triton nvidia-pytriton onnxruntime
	@touch $@

docs: install
	@if command -v npm >/dev/null; then $(MAKE) web; else echo "without the page: npm is missing"; fi
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict --site-dir site

format: install
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

clean:
	rm -rf $(VENV) .venv-beam .triton runs build dist *.egg-info site web/dist web/node_modules
