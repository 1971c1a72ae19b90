# SPDX-License-Identifier: Apache-2.0
# A thin front to Meson. `make help` lists the targets.
BUILD ?= build
ASAN ?= build-asan
PROGRAMS = moat moat-control moat-agent moat-edge moat-init moat-unpack moat-fetch moat-backup moat-forward moat-vsock
CC_CACHED := $(if $(shell command -v ccache),ccache ,)$(if $(filter default,$(origin CC)),gcc,$(CC))
BENCHES = api backup deploy edge eventlog image mesh sched secrets

NODES ?= 10

.PHONY: all help deps build deb demo down test test-lab test-mesh bench lint analyze analyze-changed fuzz clean $(BENCHES:%=bench-%)

all: build ## build every program into ./bin

help: ## this list
	@sed -n 's/^\([a-z][a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 20

deb: build ## Debian packages of what is built, into build/deb (VERSION=V instead of the tree's)
	@packaging/deps/install deb
	@packaging/deb/build --bin bin --out $(BUILD)/deb $(if $(VERSION),--version $(VERSION))

deps: ## install what building and running needs (Debian packages, named)
	@packaging/deps/install build run

$(BUILD)/build.ninja:
	@command -v meson > /dev/null || { echo "error: meson is not installed: run 'make deps' as root" >&2; exit 1; }
	@CC="$(CC_CACHED)" meson setup $(BUILD) > $(BUILD).log 2>&1 || { cat $(BUILD).log >&2; rm -rf $(BUILD) $(BUILD).log; exit 1; }
	@rm -f $(BUILD).log

build: $(BUILD)/build.ninja
	@[ -f $(BUILD)/.ninja_log ] || echo "building (about a minute)"
	@ninja -C $(BUILD) --quiet > $(BUILD)/make.log 2>&1 || { cat $(BUILD)/make.log >&2; exit 1; }
	@mkdir -p bin
	@for p in $(PROGRAMS); do f=$$(ls $(BUILD)/src/*/$$p 2>/dev/null) && cmp -s $$f bin/$$p || { [ -z "$$f" ] || install -m 755 $$f bin/$$p; }; done

demo: ## the whole way on this machine: install, build, start, deploy the example, fetch its page
	@packaging/deps/install build run
	@$(MAKE) --no-print-directory build
	@examples/hello/demo

down: ## stop everything that `make demo` or `moat up` started (PURGE=1: the data too)
	@if [ -x bin/moat ]; then bin/moat down $(if $(PURGE),--purge); else echo "nothing is built, nothing runs"; fi

test: ## every tier that this machine can run; last line: N passed, N failed, N skipped
	@packaging/deps/install build run test
	@$(MAKE) --no-print-directory build
	@tests/run --build $(BUILD) --asan $(ASAN)

test-lab: ## whole hosts under QEMU: Firecracker, nested KVM, cgroup v2 (as root; no KVM needed)
	@packaging/deps/install build run test lab
	@$(MAKE) --no-print-directory build
	@tests/run --lab

test-mesh: ## a mesh of 10 machines as network namespaces, with real programs and wireguard-go (NODES=N: so many; as root)
	@packaging/deps/install build run test
	@$(MAKE) --no-print-directory build
	@tests/mesh/run $(NODES)

bench: $(BENCHES:%=bench-%) ## every benchmark

$(BENCHES:%=bench-%): bench-%:
	@packaging/deps/install build run test
	@$(MAKE) --no-print-directory build
	@bench/$*/run

lint: ## formatting, forbidden words, static analysis
	@tests/lint

analyze: ## static analysis of all of src, which finds nothing (CLANG=1: clang's analyser too, slow the first time)
	@packaging/deps/install analyze
	@tests/analyze

analyze-changed: ## clang's analyser over what was changed last, then the rest, for at most 150 s
	@packaging/deps/install build fuzz
	@$(MAKE) --no-print-directory build
	@CLANG=only tests/analyze

fuzz: ## run every fuzz target for SECONDS each (default 60)
	@packaging/deps/install build fuzz
	@tests/fuzz/run $(or $(SECONDS),60)

clean: ## remove what was built
	rm -rf $(BUILD) $(ASAN) build-analyze bin
