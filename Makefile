# `make` alone lists what there is. A machine needs Rust, a C linker, make, and Python 3.10 or newer.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The tools are installed once for each state of requirements.txt.
STAMP := $(VENV)/installed-$(shell cksum < requirements.txt | cut -d ' ' -f 1)

export PATH := $(CURDIR)/$(BIN):$(PATH)
export SAM_CLI_TELEMETRY := 0
# Without zig, which cargo-lambda would want: the host's own linker.
export CARGO_LAMBDA_COMPILER ?= cargo
# sam wants a Region even where it asks AWS nothing.
REGION := AWS_DEFAULT_REGION=us-east-1
# Amazon Linux 2023, which the function runs on, has glibc 2.34.
NEWEST_GLIBC := 34

.DEFAULT_GOAL := help
.PHONY: help venv demo test format lint unit template python bench-policy build deploy clean need-rust need-python

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: need-rust $(STAMP) ## build, deploy to an emulated cloud, show what the function does there
	@$(BIN)/python -m demo

test: format lint unit template python ## everything that must pass before a change goes in
	@echo "make test: all passed"

format: need-rust ## check the formatting
	cargo fmt --check
	cargo fmt --check --manifest-path benches/policy/Cargo.toml

lint: need-rust ## clippy, warnings as errors
	cargo clippy --locked --all-targets --features cli -- -D warnings

unit: need-rust ## the Rust tests
	cargo test --locked --features cli

template: $(STAMP) ## the template's linters; each check that is skipped says why, in the template
	$(REGION) sam validate --lint
	checkov --file template.yaml --framework cloudformation --skip-download --compact --quiet

python: need-rust $(STAMP) ## the template's tests and the end-to-end tests
	pytest

bench-policy: need-rust ## 1,000 rules over 10,000 instances, on one core
	cargo run --quiet --release --locked --manifest-path benches/policy/Cargo.toml --target-dir target/benches

build: need-rust $(STAMP) ## the release build, ready to deploy
	sam build
	@$(BIN)/python -c 'import re, sys; \
	needs = max(map(int, re.findall(rb"GLIBC_2\.(\d+)", open(sys.argv[1], "rb").read()))); \
	sys.exit(f"This host builds for glibc 2.{needs}, and Lambda has 2.$(NEWEST_GLIBC). Build with zig: " \
	"$(BIN)/pip install ziglang==0.17.* && make build CARGO_LAMBDA_COMPILER=cargo-zigbuild" \
	if needs > $(NEWEST_GLIBC) else 0)' .aws-sam/build/Function/bootstrap

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
