# make run and make test are all a newcomer needs; each creates what it misses.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARCHITECTURE ?= arm64
PACKAGES := packages/fmilib packages/cosmicai packages/workbench

.PHONY: audit build campaign campaign-short checkov definition docs lock test-deploy test-sam help setup system-packages run test test-slow lint types check figures format clean

help: ## show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

setup: $(VENV)/.installed ## create .venv with everything pinned

NATIVE := $(wildcard packages/cosmicai/native/*.[ch] packages/cosmicai/native/*.py)

$(VENV)/.installed: requirements.txt requirements-torch.txt $(PACKAGES:%=%/pyproject.toml) $(NATIVE)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "CosmicAI needs Python 3.11 or newer; found $$($(PYTHON) --version). Set PYTHON=python3.x."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { echo "Python's venv module is missing: sudo apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --retries 1 -r requirements-torch.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation $(PACKAGES:%=-e ./%)
	@touch $@

# Every file of a pinned version may be installed, for any Python and processor; no other file.
lock: ## hashes of the versions in requirements.txt, after one was changed
	test -x .uv/bin/uv || { $(PYTHON) -m venv .uv && .uv/bin/pip install --quiet \
	  --disable-pip-version-check uv==0.13.9; }
	grep '^#' requirements.txt >.uv/requirements.txt
	sed -n 's/^\([^# ]*==[^ ;]*\).*/\1/p' requirements.txt | .uv/bin/uv pip compile --quiet --no-config --no-deps \
	  --universal --python-version 3.11 --generate-hashes --no-header --no-annotate - >>.uv/requirements.txt
	mv .uv/requirements.txt requirements.txt

system-packages: ## Debian packages that some tests use (as root or with sudo)
	scripts/install-system-packages

run: setup ## the main job: real galaxies through the whole state machine, on this machine
	$(BIN)/cosmicai demo

# loadfile: fixtures of a module (local clouds, servers) are made once, not once a worker.
test: setup lint types ## lint, types and the fast tests
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: setup ## the tests marked slow
	$(BIN)/python -m pytest -m slow -n 2 --dist loadfile

# Each part of the campaign is bounded in time in the short run; make campaign runs all its trials.
campaign: setup ## random trials under faults, three seeds: a table, failing on wrong or hung
	PYTHONPATH=tests $(BIN)/python -m campaign --seed 1 --seed 2 --seed 3 --trials 250

campaign-short: setup ## a few of them, within five minutes
	PYTHONPATH=tests $(BIN)/python -m campaign --trials 250 --seconds 12

build: setup ## the application as it deploys, with its sizes checked (ARCHITECTURE=x86_64)
	PATH="$(CURDIR)/$(BIN):$$PATH" SAM_CLI_TELEMETRY=0 \
	  sam build --parallel --parameter-overrides Architecture=$(ARCHITECTURE)
	$(BIN)/python -m cosmicai_workbench.deployment.build_check

definition: setup ## the retry policy written into the state machine
	$(BIN)/python -m cosmicai_workbench.retries statemachine/inference.asl.json

.PHONY: states-language
states-language: ## AWS's language service, by which the tests check the state machine (npm)
	npm ci --prefix tests/infrastructure/states-language --no-audit --no-fund

.PHONY: browser
browser: ## what drives Chromium and judges accessibility, for the tests of the report (npm)
	npm ci --prefix tests/browser --no-audit --no-fund

test-deploy: setup ## sam build and sam deploy against an emulator of AWS, and runs there
	tests/deploy/run.sh

test-sam: setup ## every function in its runtime's image, by sam local invoke (Docker, or root)
	tests/sam/run.sh

checkov: ## the templates against AWS's security practice; in its own environment, its pins conflict
	test -x .checkov/bin/checkov || { $(PYTHON) -m venv .checkov && .checkov/bin/pip install --quiet \
	  --disable-pip-version-check checkov==3.3.30; }
	.checkov/bin/checkov --file template.yaml infrastructure/*.yaml --framework cloudformation \
	  --compact --quiet --skip-download --config-file .checkov.yaml

# pip-audit asks PyPI for known vulnerabilities; a mirror without them leaves packages unaudited.
audit: ## our code by bandit, and what is pinned by pip-audit; in an environment of their own
	test -x .audit/bin/pip-audit || { $(PYTHON) -m venv .audit && .audit/bin/pip install --quiet \
	  --disable-pip-version-check bandit==1.9.4 pip-audit==2.10.1; }
	.audit/bin/bandit --quiet --recursive --severity-level medium packages functions layers scripts
	set -e; for list in requirements.txt layers/arm64/*.txt layers/x86_64/*.txt; do \
	  echo "$$list"; .audit/bin/pip-audit --disable-pip --no-deps --progress-spinner off -r $$list; \
	done

docs: setup ## the documentation site, in build/site/html; in an environment of its own
	test -x .docs/bin/mkdocs || { $(PYTHON) -m venv .docs && .docs/bin/pip install --quiet \
	  --disable-pip-version-check --no-deps --require-hashes -r requirements-docs.txt; }
	$(BIN)/python scripts/docs_site.py build/site
	NO_MKDOCS_2_WARNING=1 .docs/bin/mkdocs build --quiet --config-file build/site/mkdocs.yml
	@echo "build/site/html/index.html"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

check: lint types

figures: setup ## the README's figures, from a run of the demo on this machine
	$(BIN)/cosmicai demo --runs build/figures
	$(BIN)/cosmicai report build/figures/latest -o build/figures/report.html --figures build/figures/svg
	cp build/figures/svg/run-quality-1.svg docs/figures/redshifts.svg
	cp build/figures/svg/run-timeline-1.svg docs/figures/ranks.svg

format: setup ## let ruff rewrite the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove what the targets made, but never runs/
	rm -rf $(VENV) .audit .checkov .docs .uv .cosmicai .aws-sam build dist .pytest_cache .mypy_cache .ruff_cache
