# SPDX-License-Identifier: GPL-2.0-or-later
# `make demo` and `make test` install what they need; nothing else has to be set up.
BIN := .venv/bin
# Code that decides or changes something has to be covered by branches.
COVERED := src/mbecguard/plan/*,src/mbecguard/host/*,src/mbecguard/lock.py,src/mbecguard/pages.py

CACHE := $(or $(MBECGUARD_CACHE),$(HOME)/.cache/mbecguard)
KVM := $(CACHE)/kvm-modules/READY

.PHONY: demo tour test check lint bench corpus lab selftests deb rpm clean setup setup-lab

# The real thing: a stock guest locks itself on emulated MBEC hardware, and an attack fails that ran before.
demo: setup-lab $(KVM)
	$(BIN)/python -m tools.demo

# A minute, nothing emulated: recorded guests on the simulated host.
tour: setup
	$(BIN)/python -m tools.tour

# Everything: lint, types, unit tests, recorded guests, guests booted in QEMU and on emulated MBEC hardware.
test: setup-lab lint $(KVM)
	$(BIN)/pytest -n 2 --cov --cov-report= tests/unit
	$(BIN)/coverage report --include='$(COVERED)' --fail-under=95
	$(BIN)/pytest -n 2 --dist loadfile tests --ignore tests/unit --ignore tests/test_lab.py
	$(BIN)/pytest -n 2 --dist worksteal tests/test_lab.py

# Under a minute: lint, types, unit tests.
check: setup lint
	$(BIN)/pytest -n 2 tests/unit

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# Ratios on this machine, then instruction counts from the lab.
bench: setup-lab $(KVM)
	$(BIN)/python -m tools.bench
	$(BIN)/python -m tests.lab.costs
	$(BIN)/python -m tests.lab run lock costs --guest systemd --cpus 2

# The kernel's own tests of KVM, with stock KVM and with ours: the same results.
selftests: setup-lab $(KVM)
	$(BIN)/python -m tests.lab.selftests --limit 1500
	$(BIN)/python -m tests.lab.selftests --cpu amd --limit 1500

# Record all guests of the corpus again, from Debian packages (about 15 minutes).
corpus: setup-lab
	$(BIN)/python -m tests.corpus make

# dist/: the packages, built in a clean Debian root.
deb: setup-lab
	packaging/build-debs.sh
rpm: setup-lab
	packaging/build-rpms.sh

setup:
	@tools/setup.sh
setup-lab:
	@tools/setup.sh lab

# Only what is emulated.
lab: setup-lab $(KVM)
	$(BIN)/pytest -n 2 --dist worksteal tests/test_lab.py

$(KVM): $(shell find kvm-host -type f -not -path '*/tests/*')
	kvm-host/build-in-root.sh

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage build dist
