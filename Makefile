# `make help` lists the targets.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

# The RabbitMQ release under test: 3.10, 4.0 or 4.3.
export LAPWING_TEST_RELEASE ?= 3.10
# Options for the test runner: make test ARGS='drain --no-capture', make unit ARGS=backoff
ARGS ?=

shell_scripts = $(shell grep -lE '^\#!.*bash' scripts/* .ci/*)

SOAK_SECONDS ?= 300
# For `make simulate` and `make replay`. bash has a variable SECONDS of its own.
override SECONDS := $(if $(filter command% environment%,$(origin SECONDS)),$(SECONDS))
SEED ?=

COMPARE_SCRIPTS ?= 2000
ONCE_MESSAGES ?= 50000

.PHONY: help run unit test compare test-4.0 test-4.3 matrix test-backends soak letters once simulate replay lint audit fmt docs chart bench fuzz fuzz-api picture clean setup

help: ## List these targets
	@sed -nE 's/^([a-z0-9.-]+):.*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

run: ## Run the worker on a real RabbitMQ: six orders, and how each ends
	@scripts/demo

# The other test targets need a broker, or helm and Python.
unit: ## Run the unit tests and the examples of the documentation; needs nothing but cargo
	cargo test --lib --bins --test structure --test rust $(ARGS)
	cargo test --doc

# After success the node is deleted; after a failure it is only stopped, which keeps its logs.
test: setup ## Run the whole suite; ARGS='...' goes to cargo nextest
	@trap 'if (($$? == 0)); then end=down; else end=stop; fi; scripts/rabbitmq $$end "suite*"; scripts/postgres $$end "suite*"' EXIT; \
	[[ -n "$${AMQP_URL:-}" ]] || scripts/rabbitmq up suite --release $(LAPWING_TEST_RELEASE) >/dev/null; \
	scripts/postgres up suite >/dev/null; \
	cargo test --doc; \
	cargo nextest run $(ARGS)

# The broker in memory against RabbitMQ by $(1) random scripts: on the node of the suite, or on the
# broker of AMQP_URL, which then is of LAPWING_TEST_RELEASE.
compare = if [[ -z "$${AMQP_URL:-}" ]]; then eval "export $$(scripts/rabbitmq env suite | grep ^AMQP_URL=)"; fi; \
	LAPWING_COMPARE_SCRIPTS=$(1) cargo test --lib broker::fake::compare -- --ignored --nocapture

compare: ## Compare the broker in memory with RabbitMQ by COMPARE_SCRIPTS random scripts
	@trap 'scripts/rabbitmq down suite' EXIT; \
	[[ -n "$${AMQP_URL:-}" ]] || scripts/rabbitmq up suite --release $(LAPWING_TEST_RELEASE) >/dev/null; \
	$(call compare,$(COMPARE_SCRIPTS))

test-4.0: ## Run all tests against RabbitMQ 4.0
	@$(MAKE) test LAPWING_TEST_RELEASE=4.0

test-4.3: ## Run all tests against RabbitMQ 4.3
	@$(MAKE) test LAPWING_TEST_RELEASE=4.3

matrix: ## Run all tests against RabbitMQ 3.10, 4.0 and 4.3
	@for release in 3.10 4.0 4.3; do \
	  echo "== RabbitMQ $$release"; \
	  $(MAKE) test LAPWING_TEST_RELEASE=$$release; \
	done

# Not part of `make test`, because Phoenix takes 900 MB and half a minute to start.
test-backends: setup ## Test telemetry against real backends: Prometheus, and Phoenix for traces
	@trap 'scripts/backends down phoenix; scripts/rabbitmq down "suite*"' EXIT; \
	scripts/backends up phoenix >/dev/null; \
	[[ -n "$${AMQP_URL:-}" ]] || scripts/rabbitmq up suite --release $(LAPWING_TEST_RELEASE) >/dev/null; \
	cargo nextest run --run-ignored all 'prometheus::' 'phoenix::' $(ARGS)

soak: setup ## Disturb workers, then their services, for SOAK_SECONDS each, and check every message; LAPWING_SOAK_SEED repeats a round
	@trap 'if (($$? == 0)); then end=down; else end=stop; fi; scripts/rabbitmq $$end "suite*"' EXIT; \
	LAPWING_SOAK_SECONDS=$(SOAK_SECONDS) cargo test --test broker -- --ignored --nocapture --test-threads 1 soak::

letters: setup ## Read 100,000 dead letters by the command, in less than 100 MB, and by the API and the page, in less than 130 MB
	@trap 'scripts/rabbitmq down "suite*"' EXIT; \
	[[ -n "$${AMQP_URL:-}" ]] || scripts/rabbitmq up suite --release $(LAPWING_TEST_RELEASE) >/dev/null; \
	cargo test --test broker -- --ignored --nocapture --exact \
	  console::many_letters::a_hundred_thousand_letters_take_no_more_memory_than_promised_load

once: setup ## Publish ONCE_MESSAGES messages twice, kill workers and PostgreSQL, and check that each has its effect once
	@trap 'scripts/rabbitmq down "suite*"; scripts/postgres down "suite*"' EXIT; \
	LAPWING_ONCE_MESSAGES=$(ONCE_MESSAGES) cargo test --test broker -- --ignored --nocapture --test-threads 1 inbox::once::

# One profile with optimisation and all assertions. A failure prints its seed and the shortest script.
simulate: ## Play random faults against simulated workers until stopped, or for SECONDS; SEED=… begins there
	@LAPWING_SIMULATE_SECONDS=$(SECONDS) LAPWING_SIMULATE_SEED=$(SEED) cargo test --quiet --profile simulation --lib -- \
	  --ignored --nocapture --exact testing::simulation::search::search_for_long

replay: ## Print the script and the time line of one simulated run: make replay SEED=…
	@LAPWING_SIMULATE_SEED=$(SEED) cargo test --quiet --lib -- \
	  --ignored --nocapture --exact testing::simulation::search::replay

# `make audit` checks advisories: their database comes from the internet, and changes every day.
lint: ## Check format, lints and doc links; licences and shell scripts if the tools are installed
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --no-deps
	scripts/plant --check
	@if command -v cargo-deny >/dev/null; then cargo deny check --hide-inclusion-graph bans licenses sources; else echo 'cargo-deny is not installed: skipped'; fi
	@if command -v shellcheck >/dev/null; then shellcheck -S warning $(shell_scripts); else echo 'shellcheck is not installed: skipped'; fi

audit: ## Check dependencies for known vulnerabilities (cargo-deny; its database is on GitHub)
	cargo deny check advisories

fmt: ## Format the source
	cargo fmt

# A unit test fails if these documents are out of date.
docs: ## Update the settings' reference, the default file and the chart's schema from the settings types
	@LAPWING_UPDATE_DOCS=1 cargo test --lib --quiet settings::tests::documents::the_documents

# The deployment's tests fail if these files are out of date.
chart: ## Update the chart's README and the snapshots of its manifests
	@scripts/deploy-tools
	@$(or $(CARGO_TARGET_DIR),target)/deploy/python/bin/python scripts/chart.py
	@LAPWING_UPDATE_SNAPSHOTS=1 cargo nextest run --test deploy manifests_are_those

bench: ## Measure the worker against a bare lapin consumer
	@scripts/bench

fuzz: ## Run the fuzz targets, a minute each; SECONDS=600 for longer
	@SECONDS_EACH=$(or $(SECONDS),60) scripts/fuzz

fuzz-api: ## Send valid and invalid requests, made from the OpenAPI document, to the API (schemathesis, from PyPI)
	cargo build
	@scripts/fuzz-api

picture: setup ## Take docs/console.png: five minutes of traffic, then a screenshot
	@trap 'scripts/rabbitmq down "suite*"' EXIT; \
	cargo test --test broker -- --ignored --nocapture console::picture

clean: ## Stop all nodes of this checkout and delete everything built
	scripts/rabbitmq down '*'
	scripts/postgres down '*'
	scripts/backends down phoenix
	cargo clean
	rm -rf --one-file-system target

# Not optimised, and without its updater: a quarter of the time. The tests do not get slower by it.
install_nextest = CARGO_PROFILE_DEV_DEBUG=0 cargo install --debug --locked --no-default-features \
	--features default-no-update cargo-nextest

setup:
	@scripts/rabbitmq install $(LAPWING_TEST_RELEASE)
	@scripts/browser install
	@scripts/runtimes install
	@scripts/postgres install
	@scripts/backends install prometheus >/dev/null
	@command -v cargo-nextest >/dev/null || $(install_nextest)
