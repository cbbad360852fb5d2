# `make lint` and `make test` are what every change must pass; .ci/run runs both.

.DEFAULT_GOAL := help
.PHONY: help run test lint fmt bench bench-check faults simulate image-check deps

# Where tests/deps.sh puts what the system's packages are too old for.
export PATH := $(CURDIR)/target/tools/bin:$(PATH)

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /make \1: /p' $(MAKEFILE_LIST)

run: ## the server on http://localhost:3001/
	cargo run --release

# One build of everything, which the doc tests and nextest find done: the same packages, so the same features.
test: ## every test, with stock clients; installs what they need
	tests/deps.sh test
	cargo build --workspace --bins --examples --tests
	cargo test --workspace --doc
	cargo nextest run --workspace --no-tests=fail

lint: ## formatting, clippy, documentation, licences and sources of dependencies
	tests/deps.sh lint
	cargo fmt --all --check
	cargo fmt --manifest-path libs/sio/fuzz/Cargo.toml --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS=-Dwarnings cargo doc --workspace --no-deps
	cargo deny check bans licenses sources

fmt: ## formats the code
	cargo fmt --all
	cargo fmt --manifest-path libs/sio/fuzz/Cargo.toml

bench: ## Fanfare beside its peers, then the codec; rewrites bench/RESULTS.md (25 minutes)
	bench/peers/install.sh
	cargo build --release
	target/release/fanfare bench compare --repeat 3
	cargo bench -p sio

bench-check: ## instructions of the hot paths, with valgrind: 1 when one has grown by 5 %; UPDATE=1 keeps them
	tests/deps.sh bench
	cargo build --release -p instructions
	ulimit -Sn 4096 && $${CARGO_TARGET_DIR:-target}/release/instructions check $(if $(UPDATE),--update)

faults: ## what faults under load cost, as one table; FAULTS="--storm 5000" or names of faults for some alone
	cargo build -p fanfare -p tests --bins
	target/debug/faults $(FAULTS)

simulate: ## the whole system in virtual time, a schedule of faults a seed; SEEDS=1000 FROM=0 of them
	cargo run --release -p simulation -- --seeds $(or $(SEEDS),1000) --from $(or $(FROM),0)

image-check: ## the image by its Dockerfile, and the chart with it, in podman on this machine's network; as root
	tests/deps.sh test image
	cargo build --release
	tests/tests/deploy/image.sh $${CARGO_TARGET_DIR:-target}/release/fanfare

deps: ## installs what lint and test need
	tests/deps.sh
