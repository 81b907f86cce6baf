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

# Files that the binary generates on installation, below PREFIX
MAN_PAGE  := share/man/man8/tcptop.8
BASH_COMP := share/bash-completion/completions/tcptop
ZSH_COMP  := share/zsh/site-functions/_tcptop
FISH_COMP := share/fish/vendor_completions.d/tcptop.fish
GENERATED := $(MAN_PAGE) $(BASH_COMP) $(ZSH_COMP) $(FISH_COMP)

export PATH := $(PATH):$(dir $(CARGO))

.DELETE_ON_ERROR:
.PHONY: help deps run build check test test-kernels test-arm64 bench bench-smoke vmlinux man install uninstall

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "%-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

deps: ## Install the tools and libraries that building tcptop needs
	@scripts/install-deps.sh

run: build ## Do deps and build, then start tcptop as root (ARGS="--port 443")
	@$(SUDO) $(BIN) $(ARGS)

build: deps ## Do deps, then build the release binary
	@$(CARGO) build --release --locked

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

# Runs the executable that cargo builds from benches/overhead: $(call overhead,bench,...)
# with the release's optimisation, $(call overhead,test,...) with that of the tests. It is
# built before the release binary, because cargo bench builds a tcptop of its own, which
# unwinds on panic.
overhead = exe=$$($(CARGO) $(1) --locked --no-run --features bench-reference --bench overhead \
	--message-format=json | sed -n 's/.*"kind":\["bench"\].*"executable":"\([^"]*\)".*/\1/p') \
	&& $(CARGO) build --release --locked \
	&& $(SUDO) env "PATH=$$PATH" "$$exe" --tcptop $(BIN) $(2) $(ARGS)

bench: ## Measure what tcptop costs, half an hour (PEERS=1: also nethogs, iftop; ARGS="--pairs 3 --loads tcp-bulk")
	@scripts/install-deps.sh $(if $(PEERS),--peers,--bench) || echo "measuring without the tools that could not be installed" >&2
	@$(call overhead,bench,--output benches/results)

bench-smoke: deps ## Check in seconds that bench still works
	@$(call overhead,test,--smoke)

vmlinux: ## Generate vmlinux/vmlinux.h again (from the running kernel, or BTF=FILE)
	python3 vmlinux/generate.py --btf $(BTF)

man: build ## Write the manual page to target/tcptop.8
	@$(BIN) --generate man > $(TARGET_DIR)/tcptop.8

# Does not depend on build: `sudo make install` would run cargo as root.
install: ## Install the built binary, its manual page and completions (PREFIX, DESTDIR)
	@test -x $(BIN) || { echo "nothing to install yet: make build" >&2; exit 1; }
	install -D -m 755 $(BIN) $(DESTDIR)$(PREFIX)/bin/tcptop
	install -d $(addprefix $(DESTDIR)$(PREFIX)/,$(dir $(GENERATED)))
	$(BIN) --generate man > $(DESTDIR)$(PREFIX)/$(MAN_PAGE)
	$(BIN) --generate bash > $(DESTDIR)$(PREFIX)/$(BASH_COMP)
	$(BIN) --generate zsh > $(DESTDIR)$(PREFIX)/$(ZSH_COMP)
	$(BIN) --generate fish > $(DESTDIR)$(PREFIX)/$(FISH_COMP)

uninstall: ## Remove the files that install wrote
	rm -f $(addprefix $(DESTDIR)$(PREFIX)/,bin/tcptop $(GENERATED))
