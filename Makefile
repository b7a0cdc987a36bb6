# SPDX-License-Identifier: GPL-2.0-or-later
# `make demo` and `make test` install what they need; nothing else has to be set up.
BIN := .venv/bin
# Code that decides or changes something has to be covered by branches.
COVERED := src/mbecguard/plan/*,src/mbecguard/host/*,src/mbecguard/lock/*,src/mbecguard/values/pages.py

# Compiled once, not again in each of the tests' processes.
unexport PYTHONDONTWRITEBYTECODE

CACHE := $(or $(MBECGUARD_CACHE),$(HOME)/.cache/mbecguard)
KVM := $(CACHE)/kvm-modules/7.2/READY $(CACHE)/kvm-modules/6.12/READY

.PHONY: picture pictures golden dashboard schemas demo tour test check lint bench corpus revisions lab lab-full selftests deb rpm clean setup setup-lab

# A stock guest locks itself on emulated MBEC hardware, and an attack fails that ran before. NATIVE=1: on this machine's own.
demo: setup-lab $(if $(NATIVE),,$(KVM))
	$(BIN)/python -m tools.demo $(if $(NATIVE),--native)

# Nothing emulated: captured guests on the simulated host.
tour: setup
	$(BIN)/python -m tools.tour

# Everything: lint, types, unit tests, captured guests, guests booted in QEMU and on emulated MBEC hardware.
test: setup-lab lint $(KVM)
	$(BIN)/pytest -n 2 --cov --cov-report= tests/unit
	$(BIN)/coverage report --include='$(COVERED)' --fail-under=95
	$(BIN)/pytest -n 2 --dist loadfile tests --ignore tests/unit --ignore tests/test_lab.py
	$(BIN)/pytest -n 2 --dist worksteal tests/test_lab.py

# Lint, types, unit tests: about a minute of CPU time.
check: setup lint
	$(BIN)/pytest -n 2 tests/unit

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# What it costs, with goals, then instruction counts from the lab. AGAINST=FILE: a run that `-m tools.bench --json` has saved.
bench: setup-lab $(KVM)
	$(BIN)/python -m tools.bench $(if $(AGAINST),--against $(AGAINST))
	$(BIN)/python -m tests.lab.costs
	$(BIN)/python -m tests.lab run lock costs --guest systemd --cpus 2

# The kernel's own tests of KVM, with stock KVM and with ours: the same results.
selftests: setup-lab $(KVM)
	$(BIN)/python -m tests.lab.selftests --limit 1500
	$(BIN)/python -m tests.lab.selftests --cpu amd --limit 1500
	$(BIN)/python -m tests.lab.selftests --host-kernel 6.12 --limit 1500
	$(BIN)/python -m tests.lab.selftests --host-kernel 6.12 --cpu amd --limit 1500

# Do the patches of kvm-host apply to every linux-source of the mirrors? Downloads 150 MB for each, once.
revisions: setup-lab
	$(BIN)/python -m tools.revisions

# Capture all guests of the corpus again, from Debian packages (about half an hour).
corpus: setup-lab
	$(BIN)/python -m tests.corpus make --product

# docs/schema/: again from the dataclasses.
schemas: setup
	$(BIN)/python -m tools.schemas

# packaging/grafana/mbecguard.json, by Grafana's SDK.
dashboard: setup
	$(BIN)/python -m tools.dashboard

# tests/corpus/golden/: what an audit of each captured guest answers to programs.
golden: setup
	$(BIN)/python -m tests.golden

# docs/design.svg, from its description in tools/picture.py.
picture: setup
	$(BIN)/python -m tools.picture

# build/pictures/: the pages of reports as a browser shows them, to be looked at.
pictures: setup-lab
	$(BIN)/python -m tools.pictures

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

# What is emulated and not in make test: hours.
LAB := $(BIN)/python -m tests.lab run --limit 3000
lab-full: setup-lab $(KVM)
	$(LAB) --cpus 2 start-smep start-boot-cpu churn resets init without-ept smm-open late-vmxe moved moved-away old-mmu hugetlb
	$(LAB) --cpus 2 stores-log stores-malformed stores-race stores-refused stores-storm stores-devices stores-cost
	$(LAB) --kvm unenforced --cpus 3 stores-meanwhile stores-reboots
	$(LAB) --limit 9000 --kvm unenforced flood
	$(LAB) --cpus 2 crowd crowd-reset tempest --host-cmdline "slub_debug=FZPU page_poison=1 preempt=full"
	$(LAB) smm-unlocked smm-enter s3-register eptad-off
	$(LAB) --host-debug --cpus 2
	$(LAB) --cpus 2 smm-firmware
	$(LAB) --guest systemd q35
	$(LAB) --host-kernel 6.12 without-eptad
	$(LAB) --host-kernel 6.12 --cpus 2 seal start-page start-smep start-boot-cpu smi smm-open late-vmxe churn moved old-mmu hugetlb
	$(LAB) --kernel 7.2 --cpus 2 start-page start-smep start-boot-cpu smi
	$(LAB) --guest systemd --cpus 2 killed rights does-nothing retries loops false-denials idle
	$(LAB) --guest systemd --cpus 2 lock workload frozen free-space free-space-kept filters one-way
	$(LAB) --guest systemd --kernel 7.2 --cpus 2 free-space free-space-kept one-way
	$(LAB) --guest systemd --host-kernel 6.12 --cpus 2 lock workload frozen
	$(LAB) --guest systemd --host-kernel 6.12 --kernel 6.1 --cpus 2 lock workload frozen free-space
	$(LAB) --guest systemd --cpus 2 kept switches refusals locked-down hosts-say-no fuzzed
	$(LAB) --guest systemd --cpus 2 level-text level-cost
	for kernel in 6.1 6.12 7.2; do $(LAB) --kvm unenforced --guest systemd --kernel $$kernel --cpus 2 handed-over || exit; done
	$(LAB) --guest systemd witnessed replayed
	$(LAB) --guest installed --cpus 2 service
	$(LAB) --guest installed --cpus 2 troubles learned early soft-reboot reboots broken-boots wrong-plan host-off mbec-off
	$(LAB) --kvm stock --guest installed unsupported
	$(LAB) --kvm plain --guest installed assessed left asked no-failures volatile

$(CACHE)/kvm-modules/%/READY: $(shell find kvm-host -type f -not -path '*/tests/*')
	kvm-host/build-in-root.sh $*

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage build dist
