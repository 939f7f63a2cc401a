# The everyday commands. `make` without a target explains them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
VENV := .venv
PIP_INSTALL := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes

.PHONY: help run seed replay tail export load-test load-test-ui up down rebuild logs build \
	test test-long export-kills nemesis soak lint k8s-validate tf-validate bench clean compose-test docs screenshots snippet \
	release requirements

# Lists the commands in the order of this file, under its headings.
help: ## Explain each command.
	@awk -F ':.*## ' ' \
		/^# ── / { gsub(/^# ── | ──$$/, ""); heading = "\n" $$0 "\n" } \
		/^[a-z0-9-]+:.*## / { printf "%s  make %-14s %s\n", heading, $$1, $$2; heading = "" }' Makefile

# ── On this machine, without Docker ──

run: $(VENV)/local ## Run the whole pipeline in this terminal: broker, database, API, consumer, console. Ctrl-C stops it.
	@$(VENV)/bin/python -m ops.local

seed: $(VENV)/local $(if $(SDK),$(VENV)/sdks) ## Send three shoppers' events; `make seed CUSTOMERS=100` adds generated ones, `make seed SDK=segment` uses that SDK.
	@$(VENV)/bin/python -m loadtest.seed --customers='$(or $(CUSTOMERS),0)' $(if $(SDK),--sdk='$(SDK)')

replay: $(VENV)/local ## Send a public e-commerce clickstream (31,106 events) and check that each event is stored.
	@$(VENV)/bin/python -m loadtest.replay

tail: $(VENV)/local ## Follow the events that are stored in MongoDB, one line per event. Ctrl-C ends it.
	@$(VENV)/bin/python -m ops.tail

export: $(VENV)/local $(VENV)/export ## Export the stored events to Parquet files in var/export, each event once.
	@LOG_FORMAT=$${LOG_FORMAT:-text} LOG_LEVEL=$${LOG_LEVEL:-warning} EXPORT_MIN_AGE=$${EXPORT_MIN_AGE:-0s} \
		$(VENV)/bin/python -m ops.export run

# ── Load, with or without Docker ──

load-test: $(VENV)/loadtest ## Send 10,000 events and report the fate of each; `make load-test URL=https://…` sends to another API.
	@$(VENV)/bin/python -m loadtest.load_test $(if $(URL),--url='$(URL)')

load-test-ui: $(VENV)/loadtest ## Open locust's page on port 8089: shoppers, single events, batches; URL=… as above.
	@$(VENV)/bin/python -m loadtest.load_test_ui $(if $(URL),--url='$(URL)')

# ── The full stack, with Docker ──

# The images have the revision as a label.
COMPOSE := REVISION="$$(git describe --always --dirty 2>/dev/null)" docker compose

up: compose ## Start the full stack with Docker Compose: Kafka, MongoDB, API, consumer, console, Grafana and more.
	@$(COMPOSE) up --detach --wait
	@printf '%-14s%s\n' \
		Console 'http://localhost:8084 (shows where each event is; any user, password pulse-on-this-machine)' \
		API 'http://localhost:8080 (try: make seed)' \
		Grafana 'http://localhost:3000 (admin, admin)' \
		Prometheus 'http://localhost:9090' \
		'Kafka UI' 'http://localhost:8082' \
		'Mongo Express' 'http://localhost:8081'

down: compose ## Stop that stack and keep its data. `docker compose down --volumes` deletes the data too.
	@$(COMPOSE) --profile load --profile export down

rebuild: compose ## Deploy your changes: build the images again and replace their containers.
	@$(COMPOSE) up --detach --wait --build

logs: compose ## Follow that stack's logs; `make logs SERVICE=api` follows those of one service.
	@$(COMPOSE) logs --follow --tail 100 $(SERVICE)

build: compose ## Build our images, without starting them.
	@$(COMPOSE) build

.PHONY: compose
compose:
	@docker compose version >/dev/null 2>&1 || \
		{ echo "make $(MAKECMDGOALS) needs Docker with Compose 2. Without Docker there is: make run" >&2; exit 1; }

# ── Tests and checks ──

test: $(VENV)/tox ## Run all tests, with the servers they need; `make test ARGS="-e py311-unit"` runs only the quick ones.
	@$(VENV)/bin/tox run $(ARGS)

test-long: $(VENV)/tox ## Run the tests that `make test` excludes: each takes half a minute or more.
	@$(VENV)/bin/tox run -e faults,e2e $(ARGS) -- -m long

export-kills: $(VENV)/tox ## Kill exporters and consumers 50 times at random; `make export-kills KILLS=200` kills more often.
	@EXPORT_KILLS='$(or $(KILLS),50)' $(VENV)/bin/tox run -e faults -- -s -k exported_once_despite_kills

nemesis: $(VENV)/tox ## Break the whole pipeline at random for an hour; check that no event is lost; `make nemesis MINUTES=20 SEED=7 RATE=50`.
	@NEMESIS_MINUTES='$(or $(MINUTES),60)' NEMESIS_SEED='$(or $(SEED),$(shell echo $$RANDOM))' NEMESIS_RATE='$(RATE)' \
		$(VENV)/bin/tox run -e faults -- -s -m long -k the_nemesis_acts

soak: $(VENV)/tox ## Send 2,000 events per second for two hours; check that no resource use grows; `make soak MINUTES=20 RATE=500`.
	@SOAK_MINUTES='$(or $(MINUTES),120)' SOAK_RATE='$(or $(RATE),2000)' $(VENV)/bin/tox run -e faults -- -s -m long -k steady_load

lint: $(VENV)/tox ## Check format, rules, types, and the security of manifests and Terraform.
	@$(VENV)/bin/tox run -e lint,types,checkov $(ARGS)

k8s-validate: $(VENV)/tox ## Build the Kubernetes manifests of every overlay and check them.
	@$(VENV)/bin/tox run -e deployment,checkov

k8s-apply-test: $(VENV)/tox ## Build Kubernetes' control plane (15 minutes of CPU time, once), and apply the manifests to it.
	@$(VENV)/bin/tox run -e controlplane -- -s

tf-validate: $(VENV)/tox ## Check the Terraform files; needs terraform and its registry of providers (or TERRAFORM_CHECK).
	@$(VENV)/bin/tox run -e deployment,checkov,terraform

bench: $(VENV)/bench ## Measure speed against alternatives, in 20 minutes; `make bench ARGS="--rounds 5 --write"` updates docs/benchmarks.md.
	@$(VENV)/bin/python -m loadtest.bench $(ARGS)

clean: ## Remove all build results and, after a confirmation, the data of `make run`.
	@if [ -p var/in-use ] && timeout 1 bash -c ': > var/in-use'; then \
		pid=$$(cat var/pid); \
		echo "A 'make run' (process $$pid) uses var/: stop it with Ctrl-C there, or: kill $$pid" >&2; exit 1; fi; \
	if [ -d var ]; then \
		read -r -p "This deletes var/ with all events stored by 'make run'. Type yes to continue: " answer || answer=; \
		[ "$$answer" = yes ] || { echo "Nothing was deleted."; exit 0; }; fi; \
	rm -rf var $(VENV) .tox .mypy_cache .ruff_cache .hypothesis; \
	find . -name __pycache__ -prune -exec rm -rf {} +

# ── Occasional commands ──

compose-test: $(VENV)/tox ## Test the stack of `make up` in containers; `STAND_INS=1` if no registry of images is reachable.
	@$(VENV)/bin/tox run -e compose

docs: $(VENV)/tox ## Write the files that are generated from the code: docs/metrics.md, docs/settings.md, .env.example, the plan in docs/scaling.md, terraform/events.schema.json, Grafana's dashboard.
	@$(VENV)/bin/tox run -e docs

screenshots: $(VENV)/tox ## Take the screenshots docs/images/console-*.png of the console of `make run`, in Chromium, in two minutes.
	@$(VENV)/bin/tox run -e screenshots

# esbuild's version pins all its dependencies.
SNIPPET := api/snippet/pulse.min.js
snippet: ## Build /pulse.js from api/snippet/pulse.js with esbuild; needs Node's npx.
	@npx --yes esbuild@0.28.2 api/snippet/pulse.js --minify --target=es2020 --log-level=warning \
		--outfile='$(SNIPPET)' --allow-overwrite

release: $(VENV)/local ## Check that this commit can be released, and set its version and tag; `make release VERSION=1.2.3`.
	@$(VENV)/bin/python -m ops.release '$(VERSION)'

requirements: $(VENV)/tox ## Compile requirements/*.in into pinned, hashed *.txt.
	@compile() { $(VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
		--custom-compile-command 'make requirements' "$$@"; }; \
	compile --upgrade requirements/dev.in -o requirements/dev.txt; \
	for part in api console consumer export local locust loadtest sdks bench deploy; do \
		compile -c requirements/dev.txt requirements/$$part.in -o requirements/$$part.txt; done; \
	for part in tox kafka-mainline checkov; do \
		compile --upgrade requirements/$$part.in -o requirements/$$part.txt; done

# ── Requirements of the commands above: one virtual environment, with a stamp for each set of packages ──

# venv creates pip last.
$(VENV)/bin/pip:
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11, 3.12 or 3.13 is needed, and there is no $(PYTHON)." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; found = sys.version_info[:2]; (3, 11) <= found <= (3, 13) or sys.exit( \
		"$(PYTHON) is Python %d.%d, but Pulse needs 3.11, 3.12 or 3.13: the local database has no package for others. " \
		"Try: make $(MAKECMDGOALS) PYTHON=python3.13" % found)'
	@$(PYTHON) -m venv $(VENV)

$(VENV)/%: requirements/%.txt | $(VENV)/bin/pip
	@echo "Installing the packages of requirements/$*.txt into $(VENV) (once, about a minute) ..."
	@$(PIP_INSTALL) -r $< || \
		{ echo "pip could not install them: is the package index reachable? Run it again when it is." >&2; exit 1; }
	@touch $@
