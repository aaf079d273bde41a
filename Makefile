# `make` alone lists what there is. A machine needs Rust, a C linker, make, and Python 3.10 or newer.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The tools are installed once for each state of requirements.txt.
STAMP := $(VENV)/installed-$(shell cksum < requirements.txt | cut -d ' ' -f 1)

export PATH := $(CURDIR)/$(BIN):$(PATH)
export SAM_CLI_TELEMETRY := 0
# The benches' tables and figures.
BENCHES := target/benches
RUN_BENCH := cargo run --quiet --profile bench --locked -p
# The packages beside the function, without the example: none of them builds the SDK.
MEMBERS := --workspace --exclude auto-instance-profile --exclude plain-sdk
MUTANTS_VERSION := 27.1.0
MUTANTS := target/cargo-mutants-$(MUTANTS_VERSION)/bin/cargo-mutants
# Without zig, which cargo-lambda would want: the host's own linker.
export CARGO_LAMBDA_COMPILER ?= cargo
# sam wants a Region even where it asks AWS nothing.
REGION := AWS_DEFAULT_REGION=us-east-1
# Amazon Linux 2023, which the function runs on, has glibc 2.34.
NEWEST_GLIBC := 34

.DEFAULT_GOAL := help
.PHONY: help venv demo test format lint unit fuzz soak mutants supply licenses pictures template python bench bench-policy bench-start bench-storm bench-sweep build deploy clean need-rust need-python

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: need-rust $(STAMP) ## build, deploy to an emulated cloud, show what the function does there
	@$(BIN)/python -m demo

test: format lint supply unit fuzz template python ## everything that must pass before a change goes in
	@echo "make test: all passed"

format: need-rust ## check the formatting
	cargo fmt --all --check

lint: need-rust ## clippy, warnings as errors
	cargo clippy --locked --all-targets --features cli -- -D warnings
	cargo clippy --locked --all-targets $(MEMBERS) -- -D warnings

unit: need-rust ## the Rust tests
	cargo test --locked --features cli

fuzz: need-rust ## outsiders' texts, thrown at their readers for some seconds
	cargo test --locked -p fuzz

soak: need-rust ## the long runs: 100,000 worlds, ten minutes of fuzzing a target, the table of faults
	WORLDS=100000 cargo test --locked --features cli --test worlds _half_of
	FUZZ_SECONDS=$${FUZZ_SECONDS:-600} cargo test --locked -p fuzz -- --nocapture
	COMPARE_FAULTS=1 cargo test --locked --features cli --test wire faults

mutants: need-rust $(MUTANTS) ## mutants of the core, for many hours; FILE=src/decide.rs takes those of one file
	$(MUTANTS) mutants $(if $(FILE),--file $(FILE))

$(MUTANTS):
	cargo install --locked --root $(MUTANTS:/bin/cargo-mutants=) cargo-mutants --version $(MUTANTS_VERSION)

supply: need-rust $(STAMP) ## what comes in from others: licences, bans, sources, and the list of what ships
	cargo-deny --locked --log-level error check bans licenses sources
	$(PYTHON) docs/licenses.py --check

licenses: need-rust ## write docs/LICENSES.md, the licences of what ships
	$(PYTHON) docs/licenses.py

pictures: $(STAMP) ## draw docs/dashboard.svg by the template's dashboard
	$(BIN)/python docs/dashboard.py

template: $(STAMP) ## the template's linters; each check that is skipped says why, in the template
	$(REGION) sam validate --lint
	checkov --file template.yaml --framework cloudformation --skip-download --compact --quiet

python: need-rust $(STAMP) ## the template's tests and the end-to-end tests
	pytest

bench: bench-policy bench-start bench-storm bench-sweep ## all benchmarks; writes their tables into docs/PERFORMANCE.md
	@for part in policy start storm sweep; do $(BIN)/python benches/report.py $$part < $(BENCHES)/$$part.md; done
	$(BIN)/python benches/cost.py $(BENCHES)/start.json $(BENCHES)/storm.json > $(BENCHES)/cost.md
	@cat $(BENCHES)/cost.md
	@$(BIN)/python benches/report.py cost < $(BENCHES)/cost.md

bench-policy: need-rust ## 1,000 rules over 10,000 instances, on one core
	@mkdir -p $(BENCHES)
	$(RUN_BENCH) policy-bench > $(BENCHES)/policy.md
	@cat $(BENCHES)/policy.md

bench-start: need-rust $(STAMP) ## the start, first and warm events at Lambda's share, beside two peers
	cargo build --release --locked --bin bootstrap
	cd examples/plain-sdk && cargo build --profile untuned --locked
	@mkdir -p $(BENCHES)
	$(RUN_BENCH) start-bench -- --json $(BENCHES)/start.json > $(BENCHES)/start.md
	@cat $(BENCHES)/start.md

bench-storm: need-rust ## up to 20,000 instances launched at once, simulated
	@mkdir -p $(BENCHES)
	$(RUN_BENCH) storm-bench -- --json $(BENCHES)/storm.json --svg docs/storm.svg > $(BENCHES)/storm.md
	@cat $(BENCHES)/storm.md

bench-sweep: need-rust ## sweeps of 10,000 and 100,000 instances and of heavy ones, at Lambda's share
	cargo build --release --locked --bin bootstrap
	@mkdir -p $(BENCHES)
	$(RUN_BENCH) sweep-bench -- --json $(BENCHES)/sweep.json > $(BENCHES)/sweep.md
	@cat $(BENCHES)/sweep.md

build: need-rust $(STAMP) ## the release build, ready to deploy
	sam build
	@$(BIN)/python -c 'import re, sys; \
	needs = max(map(int, re.findall(rb"GLIBC_2\.(\d+)", open(sys.argv[1], "rb").read()))); \
	sys.exit(f"This host builds for glibc 2.{needs}, and Lambda has 2.$(NEWEST_GLIBC). Build with zig: " \
	"$(BIN)/pip install ziglang==0.17.* && make build CARGO_LAMBDA_COMPILER=cargo-zigbuild" \
	if needs > $(NEWEST_GLIBC) else 0)' .aws-sam/build/EventFunction/bootstrap

deploy: build ## deploy to the account that your AWS credentials name; asks for the parameters
	sam deploy --guided

venv: $(STAMP) ## only install the tools

clean: ## remove what was built and installed
	rm -rf .aws-sam .demo $(VENV) .pytest_cache
	if command -v cargo > /dev/null; then cargo clean; fi

$(STAMP): requirements.txt | need-python
	@echo "Installing the tools into $(VENV) (about a minute and a half, once)"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -r requirements.txt
	@touch $@

need-rust:
	@command -v cargo > /dev/null || { \
	echo "cargo was not found. Install Rust, for example from https://rustup.rs." >&2; exit 1; }

need-python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2> /dev/null || { \
	echo "Python 3.10 or newer was not found as $(PYTHON); make PYTHON=... names another." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null || { \
	echo "$(PYTHON) has no venv module. On Debian and Ubuntu: apt-get install python3-venv." >&2; exit 1; }
