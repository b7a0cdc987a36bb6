# SPDX-License-Identifier: GPL-2.0-or-later
# `make demo` and `make test` install what they need; nothing else has to be set up.
BIN := .venv/bin
# Code that decides or changes something has to be covered by branches.
COVERED := src/mbecguard/plan/*,src/mbecguard/host/*,src/mbecguard/lock.py,src/mbecguard/pages.py

.PHONY: demo test check lint bench corpus clean setup setup-lab

demo: setup
	$(BIN)/python -m tools.demo

# Everything: lint, types, unit tests, recorded guests, and one guest booted in the lab.
test: setup-lab lint
	$(BIN)/pytest -n 2 --cov --cov-report= tests/unit
	$(BIN)/coverage report --include='$(COVERED)' --fail-under=95
	$(BIN)/pytest -n 2 --dist loadfile tests --ignore tests/unit

# Under a minute: lint, types, unit tests.
check: setup lint
	$(BIN)/pytest -n 2 tests/unit

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: setup
	$(BIN)/python -m tools.bench

# Record all guests of the corpus again, from Debian packages (about 15 minutes).
corpus: setup-lab
	$(BIN)/python -m tests.corpus make

setup:
	@tools/setup.sh
setup-lab:
	@tools/setup.sh lab

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage build dist
