# Everything that a checkout needs, from nothing but Python 3.11+ and make: `make help` lists it.
# What is made is stamped by a file named `installed` inside it, so a second call is instant.

PYTHON ?= python3
PYTEST_ARGS ?=
BENCH_ARGS ?=

.DEFAULT_GOAL := help
.SUFFIXES:
.DELETE_ON_ERROR:
export UV_PYTHON_PREFERENCE := system
unexport VIRTUAL_ENV PYTHONPATH PYTHONHOME
unexport PYTHONDONTWRITEBYTECODE  # else every start of a program compiles all of it again
unexport UV_PYTHON UV_PROJECT_ENVIRONMENT UV_SYSTEM_PYTHON

BIN := .venv/bin
UV := .venvs/uv/bin/uv
PYTEST := $(BIN)/python -m pytest
COMPILE := $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header

AIRFLOWS := 3.0 3.1 3.2 3.3
AIRFLOW_ENVS := $(AIRFLOWS:%=.venvs/airflow-%/installed)
# Which Pythons each release runs on; uv takes PYTHON where it fits, else another of the machine's, else it brings one.
PYTHON_FOR_3.0 := >=3.11,<3.13
PYTHON_FOR_3.1 := >=3.11,<3.14
PYTHON_FOR_3.2 := >=3.11,<3.15
PYTHON_FOR_3.3 := >=3.11,<3.15

.PHONY: help
help: ## Say what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-18s %s\n", $$1, $$2 }' Makefile

# --- environments ----------------------------------------------------------------------------------------------------

.PHONY: venv
venv: .venv/installed ## Make .venv: the project, editable, and its tools

.PHONY: airflow-envs
airflow-envs: $(AIRFLOW_ENVS) ## Make .venvs/airflow-3.0 to -3.3: what tenants' images contain

.venvs/uv/installed: requirements/uv.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + ": make PYTHON=/path/to/python3.11 …")'
	@$(PYTHON) -c 'import ensurepip' || { echo 'This Python cannot make virtual environments; Debian and Ubuntu have that apart: apt install python3-venv' >&2; exit 1; }
	$(PYTHON) -m venv --clear .venvs/uv
	.venvs/uv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	@touch $@

.venv/installed: .venvs/uv/installed requirements/dev.txt pyproject.toml
	test -x $(BIN)/python || $(UV) venv --quiet --python .venvs/uv/bin/python .venv
	$(UV) pip sync --quiet --compile-bytecode --python $(BIN)/python --require-hashes requirements/dev.txt
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

$(AIRFLOW_ENVS): .venvs/airflow-%/installed: .venvs/uv/installed requirements/airflow-%.txt
	test -x .venvs/airflow-$*/bin/python || PATH="$$(.venvs/uv/bin/python -c 'import sys; print(sys.base_prefix)')/bin:$$PATH" \
	  $(UV) venv --quiet --python '$(PYTHON_FOR_$*)' .venvs/airflow-$*
	$(UV) pip sync --quiet --compile-bytecode --python .venvs/airflow-$*/bin/python --require-hashes requirements/airflow-$*.txt
	@touch $@

.venvs/bench-3.3/installed: .venvs/uv/installed requirements/bench-3.3.txt
	test -x .venvs/bench-3.3/bin/python || $(UV) venv --quiet --python '$(PYTHON_FOR_3.3)' .venvs/bench-3.3
	$(UV) pip sync --quiet --compile-bytecode --python .venvs/bench-3.3/bin/python --require-hashes requirements/bench-3.3.txt
	@touch $@

PUBLISHERS := 3.1 3.2 3.3
PUBLISHER_ENVS := $(PUBLISHERS:%=.venvs/publisher-%/installed)
PROVIDERS_ENV := .venvs/providers-3.3/installed

.PHONY: publisher-envs
publisher-envs: $(PUBLISHER_ENVS) ## Make .venvs/publisher-3.1 to -3.3: this project beside an Airflow that it publishes into

.PHONY: providers-env
providers-env: $(PROVIDERS_ENV) ## Make .venvs/providers-3.3: this project beside Airflow's KubernetesExecutor, FAB and Vault backend

$(PUBLISHER_ENVS) $(PROVIDERS_ENV): .venvs/%/installed: .venvs/uv/installed requirements/%.txt pyproject.toml
	test -x .venvs/$*/bin/python || PATH="$$(.venvs/uv/bin/python -c 'import sys; print(sys.base_prefix)')/bin:$$PATH" \
	  $(UV) venv --quiet --python '$(PYTHON_FOR_$(lastword $(subst -, ,$*)))' .venvs/$*
	$(UV) pip sync --quiet --compile-bytecode --python .venvs/$*/bin/python --require-hashes requirements/$*.txt
	$(UV) pip install --quiet --python .venvs/$*/bin/python --no-deps --no-build-isolation --editable .
	@touch $@

.venvs/hooks/installed: .venvs/uv/installed requirements/hooks.txt
	test -x .venvs/hooks/bin/python || $(UV) venv --quiet --python .venvs/uv/bin/python .venvs/hooks
	$(UV) pip sync --quiet --compile-bytecode --python .venvs/hooks/bin/python --require-hashes requirements/hooks.txt
	@touch $@

.venvs/docs/installed: .venvs/uv/installed requirements/docs.txt
	test -x .venvs/docs/bin/python || $(UV) venv --quiet --python .venvs/uv/bin/python .venvs/docs
	$(UV) pip sync --quiet --compile-bytecode --python .venvs/docs/bin/python --require-hashes requirements/docs.txt
	@touch $@

.PHONY: pgbouncer
pgbouncer: .venvs/pgbouncer/installed ## Unpack Debian's PgBouncer into .venvs/pgbouncer, where the system has none

.venvs/pgbouncer/installed: | .venv/installed
	@mkdir -p .venvs/pgbouncer
	@PATH="$$PATH:/usr/sbin" command -v pgbouncer >/dev/null || ! command -v apt-get >/dev/null || \
	  PYTHONPATH=tests $(BIN)/python -m support.debian pgbouncer .venvs/pgbouncer
	@touch $@

# --- checks ----------------------------------------------------------------------------------------------------------

.PHONY: check
check: lint test ## Lint, then test: what a change must pass, and what CI runs

.PHONY: lint
lint: .venv/installed docs ## Style, types, layers, the trust boundary and the documentation
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy bench
	$(BIN)/mypy e2e charts/document.py
	MYPYPATH=docs/tools $(BIN)/mypy docs/tools/generate.py docs/tools/pictures.py
	$(BIN)/lint-imports

.PHONY: format
format: .venv/installed ## Let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: test
test: test-unit test-integration test-hooks test-publisher test-providers ## Run every test

.PHONY: test-unit
test-unit: .venv/installed ## Run the tests that need no Airflow and no PostgreSQL
	$(PYTEST) tests/unit $(PYTEST_ARGS)

.PHONY: test-integration
test-integration: .venv/installed $(AIRFLOW_ENVS) .venvs/pgbouncer/installed ## Run the tests on real Airflows and a real PostgreSQL
	$(PYTEST) --numprocesses 2 tests/integration $(PYTEST_ARGS)

.PHONY: test-hooks
test-hooks: .venv/installed .venvs/airflow-3.3/installed .venvs/hooks/installed ## Run the pre-commit hook with pre-commit itself
	$(PYTEST) tests/hooks $(PYTEST_ARGS)

.PHONY: test-publisher
test-publisher: $(PUBLISHER_ENVS) .venvs/pgbouncer/installed ## Run the tests of publishing into Airflow's own database, on each Airflow that has one
	@for minor in $(PUBLISHERS); do \
	  echo "Airflow $$minor"; .venvs/publisher-$$minor/bin/python -m pytest --numprocesses 2 --dist loadfile tests/publisher $(PYTEST_ARGS) || exit 1; done

.PHONY: test-providers
test-providers: $(PROVIDERS_ENV) ## Run the tests that need Airflow's KubernetesExecutor, FAB or Vault backend
	.venvs/providers-3.3/bin/python -m pytest --numprocesses 2 tests/publisher/test_workers.py tests/publisher/test_permissions.py \
	  tests/publisher/test_vault.py $(PYTEST_ARGS)

FUZZ_SECONDS ?= 3600
export FUZZ_SEED
.PHONY: fuzz
fuzz: .venv/installed $(PUBLISHER_ENVS) ## Feed all that decodes a tenant's bytes with what no parser sends: FUZZ_SECONDS in all, FUZZ_SEED to repeat a run
	FUZZ_SECONDS=$$(($(FUZZ_SECONDS) / 10)) $(PYTEST) tests/fuzz $(PYTEST_ARGS)
	@for minor in $(PUBLISHERS); do \
	  echo "Airflow $$minor"; FUZZ_SECONDS=$$(($(FUZZ_SECONDS) / 5)) .venvs/publisher-$$minor/bin/python -m pytest tests/fuzz/test_documents.py $(PYTEST_ARGS) || exit 1; done

.PHONY: e2e-install
e2e-install: .venv/installed ## Bring what the stories run, from Debian's packages and from source (root; 7 minutes, once)
	$(BIN)/python -m e2e.cluster install

.PHONY: e2e
e2e: .venv/installed .venvs/uv/installed .venvs/pgbouncer/installed ## Test on a real Kubernetes (root; the first time takes ten minutes more)
	$(PYTEST) e2e -m "not slow" $(PYTEST_ARGS)

# --- documentation ---------------------------------------------------------------------------------------------------

.PHONY: docs
docs: .venv/installed .venvs/docs/installed ## Build the documentation's site, build/docs/index.html; a warning fails
	$(BIN)/python docs/tools/generate.py docs/generated
	.venvs/docs/bin/python -m sphinx --fail-on-warning --keep-going --quiet docs build/docs

docs/tools/node_modules/installed: docs/tools/package-lock.json
	npm ci --prefix docs/tools --ignore-scripts --no-audit --no-fund
	@touch $@

.PHONY: pictures
pictures: docs/tools/node_modules/installed ## Draw the Mermaid pictures for `make docs`, each of which must parse (needs npm and Chromium)
	$(PYTHON) docs/tools/pictures.py

# --- to look at ------------------------------------------------------------------------------------------------------

.PHONY: demo
demo: .venv/installed .venvs/airflow-3.3/installed ## Show a bundle published, broken, kept back and rolled back
	@PATH="$(CURDIR)/$(BIN):$$PATH" sh examples/quickstart/demo.sh

.PHONY: bench
bench: .venv/installed .venvs/airflow-3.3/installed ## Measure us against Airflow's own processor (about half an hour; BENCH_ARGS=--quick)
	$(BIN)/python -m bench $(BENCH_ARGS)

.PHONY: bench-helped
bench-helped: .venv/installed .venvs/bench-3.3/installed ## Likewise on files that import libraries through helpers (an hour, almost all of it Airflow's)
	$(BIN)/python -m bench.helped $(BENCH_ARGS)

# --- to keep up to date ----------------------------------------------------------------------------------------------

.PHONY: crd
crd: .venv/installed ## Write crds/ and the chart's copy anew from the models
	$(BIN)/dagbundle crd > crds/dagbundles.dagbundle.dev.yaml.new
	mv crds/dagbundles.dagbundle.dev.yaml.new crds/dagbundles.dagbundle.dev.yaml
	cp crds/dagbundles.dagbundle.dev.yaml charts/dagbundle-operator/files/

.PHONY: parser
parser: .venv/installed ## Build the parser as one file that any Python 3.10+ runs: build/dagbundle-parser.pyz
	$(BIN)/python -m dagbundle.runtime.parser_home build/dagbundle-parser.pyz

.PHONY: lock
lock: .venvs/uv/installed ## Resolve requirements/ anew; LOCK_ARGS=--upgrade takes what is newest
	$(COMPILE) $(LOCK_ARGS) requirements/uv.in -o requirements/uv.txt
	$(COMPILE) $(LOCK_ARGS) requirements/hooks.in -o requirements/hooks.txt
	$(COMPILE) $(LOCK_ARGS) pyproject.toml -o requirements/runtime.txt
	$(COMPILE) $(LOCK_ARGS) pyproject.toml --group dev -o requirements/dev.txt
	$(COMPILE) $(LOCK_ARGS) --group docs -o requirements/docs.txt
	for minor in $(AIRFLOWS); do \
	  $(COMPILE) $(LOCK_ARGS) requirements/airflow-$$minor.in -o requirements/airflow-$$minor.txt || exit 1; done
	$(COMPILE) $(LOCK_ARGS) requirements/executor-3.3.in -o requirements/executor-3.3.txt
	$(COMPILE) $(LOCK_ARGS) requirements/bench-3.3.in -o requirements/bench-3.3.txt
	$(COMPILE) $(LOCK_ARGS) pyproject.toml requirements/airflow-3.3.in requirements/publisher.in requirements/providers.in \
	  --override requirements/providers.override -o requirements/providers-3.3.txt
	for minor in $(PUBLISHERS); do \
	  $(COMPILE) $(LOCK_ARGS) pyproject.toml requirements/airflow-$$minor.in requirements/publisher.in -o requirements/publisher-$$minor.txt || exit 1; \
	  $(COMPILE) $(LOCK_ARGS) pyproject.toml requirements/runtime-airflow.in --constraint requirements/publisher-$$minor.txt \
	    -o requirements/runtime-airflow-$$minor.txt || exit 1; done

.PHONY: clean
clean: ## Remove what was made here
	rm -rf .venv .venvs .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist bench/out docs/generated docs/tools/node_modules
	find operator tests bench docs examples e2e charts -name __pycache__ -type d -prune -exec rm -rf {} +
