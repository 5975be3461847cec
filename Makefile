# tattle: `sudo make run` is all that a fresh Debian or Ubuntu needs. `make help` lists the rest.

BIN     := .venv/bin
STAMPS  := .venv/.stamps
TATTLE  := $(BIN)/tattle
PYTEST  := $(BIN)/python -m pytest
SKIPS   := .cache/kernel.xml
# What `make test` runs once more with the other engine; TATTLE_TEST_ENGINE=bcc runs any kernel test with it.
BY_BCC  := $(addprefix tests/kernel/test_,engine.py scenarios.py ownership.py)
# More options for the daemon: sudo make run ARGS="--target ollama"
ARGS    ?=
# Where `make install` puts things.
PREFIX  ?= /opt/tattle
BINDIR  ?= /usr/local/bin
UNITDIR ?= /etc/systemd/system
ETCDIR  ?= /etc/tattle
SHAREDIR ?= /usr/local/share
PLACES  := PREFIX=$(PREFIX) BINDIR=$(BINDIR) UNITDIR=$(UNITDIR) ETCDIR=$(ETCDIR) SHAREDIR=$(SHAREDIR)
export PIP_ROOT_USER_ACTION = ignore
export PIP_DISABLE_PIP_VERSION_CHECK = 1
MAKEFLAGS += --no-print-directory

needs-root = $(if $(filter-out 0,$(shell id -u)),$(error $@ needs root. Type: sudo make $@))
# `sudo make` leaves nothing behind in your checkout that you cannot delete yourself.
give-back  = @[ -z "$$SUDO_UID" ] || find . -path ./.git -prune -o -user root -exec chown -h "$$SUDO_UID:$$SUDO_GID" {} +

.DEFAULT_GOAL := help
.PHONY: help run test test-unit test-kernel test-world test-vm test-deploy fuzz bench study bpf dashboards lint format docs venv dev install uninstall deb clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

run: ## install what is missing, build, start the daemon in the foreground (root)
	$(needs-root)
	@deploy/packages.sh run
	@$(MAKE) venv bpf
	$(give-back)
	@exec $(TATTLE) run $(ARGS)

test: ## install what tests need; lint, unit, kernel and end-to-end tests (root)
	$(needs-root)
	@deploy/packages.sh test
	@$(MAKE) dev bpf
	$(give-back)
	@$(MAKE) lint
	@$(BIN)/python -m tests.world.install
	@$(call pytest-no-skips,tests/unit tests/kernel tests/world)
	@echo "tattle: the same promises with programs that bcc compiled here"
	@export TATTLE_TEST_ENGINE=bcc; $(call pytest-no-skips,$(BY_BCC))

test-unit: dev bpf ## tests that need no root
	@$(PYTEST) -q tests/unit $(ARGS)

test-kernel: ## tests with real cgroups, sockets and namespaces (root)
	$(needs-root)
	@deploy/packages.sh test
	@$(MAKE) dev bpf
	@$(call pytest-no-skips,tests/kernel $(ARGS))

test-world: ## a real model, server and clients in a miniature internet (root)
	$(needs-root)
	@deploy/packages.sh test
	@$(MAKE) dev bpf
	@$(BIN)/python -m tests.world.install
	@$(call pytest-no-skips,tests/world $(ARGS))

test-vm: ## the same object on Debian's 5.10, 6.1, 6.12 and newest kernels (qemu)
	@deploy/packages.sh vm
	@$(MAKE) dev bpf
	@$(call pytest-no-skips,tests/vm $(ARGS))

test-deploy: ## what stands in deploy/, run as it stands there (root)
	$(needs-root)
	@deploy/packages.sh deploy
	@$(MAKE) dev bpf
	@$(call pytest-no-skips,tests/deploy $(ARGS))

fuzz: dev ## spoiled bytes for everything that reads what strangers send (ARGS="--minutes 30")
	@$(BIN)/python -m tests.unit.fuzz $(ARGS)

bench: ## what it costs, against empty hooks and nftables (root)
	$(needs-root)
	@deploy/packages.sh bench
	@$(MAKE) dev bpf
	@$(BIN)/python -m tests.bench.run $(ARGS)

study: ## what runtimes contact, and when, in the miniature internet (root; OLLAMA=/path/ollama runs the real one, too)
	$(needs-root)
	@deploy/packages.sh test
	@$(MAKE) dev bpf
	@$(BIN)/python tests/world/install.py
	@OLLAMA="$(OLLAMA)" $(BIN)/python -m tests.study.run
	$(give-back)

bpf: ## compile the kernel half into tracer/objects
	@$(MAKE) -C bpf

dashboards: dev ## write deploy/grafana/*.json anew
	@$(BIN)/python deploy/grafana/generate.py

lint: dev ## ruff, mypy, clang-format
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/mypy --no-error-summary deploy/grafana/generate.py
	@$(MAKE) -C bpf format-check
	@echo "lint: ruff, mypy and clang-format are content"

format: dev ## let ruff and clang-format write
	@$(BIN)/ruff format .
	@$(MAKE) -C bpf format

docs: ## put the latest results of test-vm and bench into README.md
	@python3 tests/documented.py

venv: $(STAMPS)/run ## .venv with tattle in it
	@:

dev: $(STAMPS)/dev ## .venv with the tools of the tests, too
	@:

install: ## tattle into /opt, its command onto the PATH, its service beside the others (root)
	$(needs-root)
	@deploy/packages.sh run
	@$(MAKE) bpf
	@$(PLACES) PYTHON=$$(deploy/packages.sh python) deploy/install.sh .

uninstall: ## take away what install put there; /etc/tattle and /var/lib/tattle stay (root)
	$(needs-root)
	@$(PLACES) deploy/install.sh --uninstall --keep

deb: dev bpf ## a Debian package into dist/
	@$(BIN)/python deploy/deb/build.py dist

clean: ## remove what was built (not .venv)
	@$(MAKE) -C bpf clean
	rm -rf .cache .mypy_cache .ruff_cache .pytest_cache build dist

# Made anew if its Python is gone (a moved checkout, an upgraded distribution).
$(STAMPS)/run: pyproject.toml tracer/__init__.py
	@$(BIN)/python -c 'import pip' 2>/dev/null || { echo "tattle: making .venv" && \
		python=$$(deploy/packages.sh python) && "$$python" -m venv --clear .venv; }
	@echo "tattle: installing the Python half into .venv"
	@$(BIN)/python -m pip install --quiet --editable .
	@mkdir -p $(@D) && touch $@

$(STAMPS)/dev: $(STAMPS)/run
	@echo "tattle: installing the tools of the tests into .venv"
	@$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1' # the first that knows --group
	@$(BIN)/python -m pip install --quiet --group dev
	@touch $@

# A kernel test that skips would be a promise that nobody checks: that is a failure here.
define pytest-no-skips
mkdir -p $(dir $(SKIPS)); $(PYTEST) --junitxml=$(SKIPS) $(1) || exit $$?; \
! grep -q '<skipped' $(SKIPS) || { echo "make: a test was skipped, see above: that counts as failed" >&2; exit 1; }
endef
