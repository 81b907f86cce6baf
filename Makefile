# The commands for people. cargo does the building.

CARGO      ?= $(or $(shell command -v cargo),$(HOME)/.cargo/bin/cargo)
PREFIX     ?= /usr/local
DESTDIR    ?=
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
BIN        := $(TARGET_DIR)/release/tcptop
# Only the finished binary runs as root, never cargo.
SUDO       := $(if $(filter 0,$(shell id -u)),,sudo)
# The kernel type information that vmlinux/vmlinux.h is generated from
BTF        ?= /sys/kernel/btf/vmlinux

# What make build writes beside the binary, and install copies: manual page and completions
SHARE     := $(TARGET_DIR)/release/share
PAGES     := man/man8/tcptop.8 bash-completion/completions/tcptop \
	zsh/site-functions/_tcptop fish/vendor_completions.d/tcptop.fish

export PATH := $(PATH):$(dir $(CARGO)):$(CURDIR)/target/peers/bin

.DELETE_ON_ERROR:
.PHONY: help deps run build check test test-kernels test-arm64 fuzz sanitize soak bench bench-kernels bench-smoke compare memory instructions vmlinux install uninstall dist dist-test dist-kernels contrib-test

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "%-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

deps: ## Install the tools and libraries that building tcptop needs
	@scripts/install-deps.sh

run: build ## Do deps and build, then start tcptop as root (ARGS="--port 443")
	@$(SUDO) $(BIN) $(ARGS)

build: deps ## Do deps, then build the release binary, its manual page and completions
	@$(CARGO) build --release --locked --bins --example generate
	@$(TARGET_DIR)/release/examples/generate $(SHARE)

check: ## Check format, lints and structure, of the BPF programs too
	@scripts/install-deps.sh --test
	@scripts/check.sh

test: ## Do check and run all tests (the live ones as root)
	@scripts/install-deps.sh --test
	@scripts/test.sh

# The executable that cargo builds from tests/live.rs
LIVE = $$($(CARGO) test --locked --no-run --test live --message-format=json \
	| sed -n 's/.*"kind":\["test"\].*"executable":"\([^"]*\)".*/\1/p')

test-kernels: build ## Boot Debian's kernels and older ones, 5.10 to the newest, and run live tests there (KERNELS="6.1 newest"; FULL=1: every test with every hook)
	@kernels/install.sh
	@kernels/matrix.sh $(if $(KERNELS),-k "$(KERNELS)") $(if $(FULL),-f) $(BIN) "$(LIVE)"

test-arm64: deps ## Build for arm64, boot Debian's arm64 kernels, and run live tests there (KERNELS, FULL)
	@kernels/arm64.sh $(if $(KERNELS),-k "$(KERNELS)") $(if $(FULL),-f)

soak: build ## Load tcptop for ten minutes: every byte must be in its log, and it must not grow (SECONDS=3600 ARGS="--udp-flows 1000")
	@$(SUDO) env "PATH=$$PATH" TCPTOP_BIN="$(BIN)" TCPTOP_TEST_SOAK=$(or $(SECONDS),600) TCPTOP_TEST_ARGS="$(ARGS)" "$(LIVE)" soak::

fuzz: ## Look for inputs that break tcptop, half an hour for each kind (SECONDS=60; TARGETS="table formats")
	@scripts/install-deps.sh --test
	@scripts/fuzz.sh $(or $(SECONDS),1800) $(TARGETS)

sanitize: ## Run the unit tests and, as root, a live test with the address sanitizer
	@scripts/install-deps.sh --test
	@scripts/sanitize.sh

# Runs the executable that cargo builds from benches/overhead: $(call overhead,bench,...)
# with the release's optimisation, $(call overhead,test,...) with that of the tests. It is
# built before the release binary, because cargo bench builds a tcptop of its own, which
# unwinds on panic.
overhead_built = exe=$$($(CARGO) $(1) --locked --no-run --features bench-reference --bench overhead \
	--message-format=json | sed -n 's/.*"kind":\["bench"\].*"executable":"\([^"]*\)".*/\1/p') \
	&& $(CARGO) build --release --locked
overhead = $(call overhead_built,$(1)) \
	&& $(SUDO) env "PATH=$$PATH" "$$exe" --tcptop $(BIN) $(2) $(ARGS)

bench: ## Measure what tcptop costs, half an hour (PEERS=1: also nethogs, iftop; ARGS="--pairs 3 --loads tcp-bulk")
	@scripts/install-deps.sh $(if $(PEERS),--peers,--bench) || echo "measuring without the tools that could not be installed" >&2
	@$(call overhead,bench,--output benches/results)

bench-kernels: build ## Count the instructions that tcptop costs on Debian's kernels, which noise does not change (KERNELS="6.1 newest")
	@kernels/install.sh
	@$(call overhead_built,bench) && kernels/cost.sh $(if $(KERNELS),-k "$(KERNELS)") $(BIN) "$$exe" $(ARGS)

bench-smoke: deps ## Check in seconds that bench still works
	@$(call overhead,test,--smoke)

compare: deps ## Compare tcptop with other tools on the same load, also in guests, and write docs/comparison.md (KERNELS="6.12"; ARGS="--connections 2000")
	@scripts/install-deps.sh --peers || echo "comparing without the tools that could not be installed" >&2
	@scripts/compare.sh "$(or $(KERNELS),6.12)" $(ARGS)

instructions: deps ## Record how large the BPF programs are on this kernel, in tests/instructions.txt
	@$(SUDO) env BLESS=1 "$(LIVE)" programs::instructions
	@grep "^$$(uname -r | sed 's/\([0-9]*\.[0-9]*\).*/\1/')-" tests/instructions.txt

memory: build ## Find the least memory limit (MemoryMax= of systemd) under which tcptop works here (ARGS="--tcp")
	@$(SUDO) scripts/memory.sh $(BIN) $(ARGS)

vmlinux: ## Generate vmlinux/vmlinux.h again (from the running kernel, or BTF=FILE)
	python3 vmlinux/generate.py --btf $(BTF)

# Does not depend on build: `sudo make install` would run cargo as root. Runs nothing that
# was built, which may be for another processor.
install: ## Install what make build has made: binary, manual page, completions (PREFIX, DESTDIR)
	@test -x $(BIN) && test -e $(SHARE)/man || { echo "nothing to install yet: make build" >&2; exit 1; }
	install -D -m 755 $(BIN) $(DESTDIR)$(PREFIX)/bin/tcptop
	$(foreach page,$(PAGES),install -D -m 644 $(SHARE)/$(page) $(DESTDIR)$(PREFIX)/share/$(page) &&) true

uninstall: ## Remove the files that install wrote
	rm -f $(DESTDIR)$(PREFIX)/bin/tcptop $(addprefix $(DESTDIR)$(PREFIX)/share/,$(PAGES))

dist: ## Make static binaries, packages, tarballs and their checksums below target/dist (ARCHS="x86_64 aarch64")
	@scripts/install-deps.sh --dist $(ARCHS)
	@scripts/dist.sh $(ARCHS)

dist-test: ## Install, start, upgrade and remove what dist has made, in root file systems of its own
	@scripts/dist-test.sh

dist-kernels: ## Boot the kernels of test-kernels and test-arm64 with the binaries that dist has made (ARCHS="x86_64 aarch64" KERNELS)
	@kernels/install.sh
	@for arch in $(or $(ARCHS),$(shell uname -m)); do scripts/dist-kernels.sh $$arch $(if $(KERNELS),-k "$(KERNELS)") || exit 1; done

contrib-test: ## Run contrib's units, logrotate and cron under a real systemd, in an emulated machine
	@contrib/test.sh
