# The front door. cargo builds; this names what people ask for.

CARGO      ?= $(or $(shell command -v cargo),$(HOME)/.cargo/bin/cargo)
PREFIX     ?= /usr/local
DESTDIR    ?=
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
BIN        := $(TARGET_DIR)/release/tcptop
# Only the finished binary runs as root, never cargo.
SUDO       := $(if $(filter 0,$(shell id -u)),,sudo)
# Which kernel's types go into vmlinux/vmlinux.h
BTF        ?= /sys/kernel/btf/vmlinux

# What the binary writes about itself, below PREFIX
MAN_PAGE  := share/man/man8/tcptop.8
BASH_COMP := share/bash-completion/completions/tcptop
ZSH_COMP  := share/zsh/site-functions/_tcptop
FISH_COMP := share/fish/vendor_completions.d/tcptop.fish
GENERATED := $(MAN_PAGE) $(BASH_COMP) $(ZSH_COMP) $(FISH_COMP)

export PATH := $(PATH):$(dir $(CARGO))

.DELETE_ON_ERROR:
.PHONY: help deps run build check test test-kernels test-arm64 bench bench-smoke vmlinux man install uninstall

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

deps: ## Install what is missing to build tcptop
	@scripts/install-deps.sh

run: build ## Install what is missing, build, and start tcptop as root (ARGS="--port 443")
	@$(SUDO) $(BIN) $(ARGS)

build: deps ## Install what is missing and build the release binary
	@$(CARGO) build --release --locked

check: ## Format and lints, of the kernel side too
	@scripts/install-deps.sh --test
	@scripts/check.sh

test: ## Everything: format, lints, tests (the live ones as root), no needless rebuild
	@scripts/install-deps.sh --test
	@scripts/test.sh

# Which executable cargo made of tests/live.rs
LIVE = $$($(CARGO) test --locked --no-run --test live --message-format=json \
	| sed -n 's/.*"kind":\["test"\].*"executable":"\([^"]*\)".*/\1/p')

test-kernels: build ## Boot Debian's kernels, 5.10 to the newest, and run the live tests there (KERNELS="6.1 newest", FULL=1)
	@kernels/install.sh
	@kernels/matrix.sh $(if $(KERNELS),-k "$(KERNELS)") $(if $(FULL),-f) $(BIN) "$(LIVE)"

test-arm64: deps ## Build for arm64, boot Debian's arm64 kernels, and let --doctor prove that tcptop counts there
	@kernels/arm64.sh $(KERNELS)

# Runs what cargo made of benches/overhead: $(call overhead,bench,...) optimised as the
# release is, $(call overhead,test,...) as the tests are. Made before the release build:
# cargo bench makes another tcptop along with it, one that unwinds.
overhead = exe=$$($(CARGO) $(1) --locked --no-run --features bench-reference --bench overhead \
	--message-format=json | sed -n 's/.*"kind":\["bench"\].*"executable":"\([^"]*\)".*/\1/p') \
	&& $(CARGO) build --release --locked \
	&& $(SUDO) env "PATH=$$PATH" "$$exe" --tcptop $(BIN) $(2) $(ARGS)

bench: ## Measure what tcptop costs, half an hour (PEERS=1: and nethogs, iftop; ARGS="--pairs 3 --loads tcp-bulk")
	@scripts/install-deps.sh $(if $(PEERS),--peers,--bench) || echo "without those" >&2
	@$(call overhead,bench,--output benches/results)

bench-smoke: deps ## See in seconds that bench still works
	@$(call overhead,test,--smoke)

vmlinux: ## Generate vmlinux/vmlinux.h anew (BTF=FILE: not from the running kernel)
	python3 vmlinux/generate.py --btf $(BTF)

man: build ## Write the manual page to target/tcptop.8
	@$(BIN) --generate man > $(TARGET_DIR)/tcptop.8

# Does not build: `sudo make install` would run cargo as root.
install: ## Install the built binary, its manual page and completions (PREFIX, DESTDIR)
	@test -x $(BIN) || { echo "nothing to install yet: make build" >&2; exit 1; }
	install -D -m 755 $(BIN) $(DESTDIR)$(PREFIX)/bin/tcptop
	install -d $(addprefix $(DESTDIR)$(PREFIX)/,$(dir $(GENERATED)))
	$(BIN) --generate man > $(DESTDIR)$(PREFIX)/$(MAN_PAGE)
	$(BIN) --generate bash > $(DESTDIR)$(PREFIX)/$(BASH_COMP)
	$(BIN) --generate zsh > $(DESTDIR)$(PREFIX)/$(ZSH_COMP)
	$(BIN) --generate fish > $(DESTDIR)$(PREFIX)/$(FISH_COMP)

uninstall: ## Remove what install wrote
	rm -f $(addprefix $(DESTDIR)$(PREFIX)/,bin/tcptop $(GENERATED))
