# `make demo` and `make test` do everything themselves: see scripts/setup.
# More arguments: make demo ARGS=--once    make test ARGS="tests/policy -x"    make PYTHON=python3.12 test

.DEFAULT_GOAL := help
ARGS ?=
BENCH ?= $(basename $(notdir $(wildcard bench/[a-z]*.py)))
UV ?= $(or $(shell command -v uv),.venv/bin/uv)
COMPILE = $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-header --no-annotate --no-emit-index-url --no-emit-find-links

.PHONY: help demo test check lint types fuzz faults bench bench-quick corpus docs statements lock clean setup setup-test setup-bench

help: ## Show these targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

demo: setup ## See it work: a relay, an upstream with an inbox, a dozen mails (ARGS=--once ends by itself)
	@exec .venv/bin/sluis demo $(ARGS)

test: setup-test ## Run all tests (ARGS="tests/policy -x" for some)
	@exec .venv/bin/pytest -q -n 2 --dist loadfile $(ARGS)

check: lint types ## Lint and types

lint: setup-test ## Ruff
	@.venv/bin/ruff check --quiet .

types: setup-test ## mypy --strict
	@.venv/bin/mypy

fuzz: setup-test ## 20,000 SMTP sessions out of a grammar (ARGS="--sessions 1000 --seed 7")
	@.venv/bin/python tests/smtp/grammar_fuzz.py $(ARGS)

faults: setup-test ## Kill the relay at 500 points, break disk and upstream, check the record (ARGS="--points 50 --seed 7")
	@exec .venv/bin/python tests/faults/run_faults.py $(ARGS)

bench: setup-bench ## Side-by-side runs, results as ratios (BENCH=peers ARGS="small --rounds 5" for one)
	@set -e; for name in $(BENCH); do echo "== $$name"; .venv/bin/python -m bench.$$name $(ARGS); done

bench-quick: setup-bench ## Two minutes: the main ratios beside the recorded ones, and what fell
	@.venv/bin/python -m bench.peers --quick

corpus: setup-test ## All mails of CPython's tests and of four source distributions, fetched into build/
	@.venv/bin/python -m pip download --quiet --no-deps --require-hashes --no-binary :all: \
		--dest build/corpus -r tests/corpus/sdists.txt
	@SLUIS_CORPUS=build/corpus exec .venv/bin/pytest -q -s tests/corpus/relayed.py $(ARGS)

docs: setup ## Write docs/law anew from the packs
	@.venv/bin/sluis policy docs --out docs/law

statements: setup ## Write the SQL of proxy/store/sql anew from proxy/store/statements
	@.venv/bin/python -m proxy.store.statements.write

lock: setup-test ## Resolve the dependencies anew and write the hashed locks
	@test -x "$(UV)" || .venv/bin/python -m pip install --quiet uv
	@$(COMPILE) --upgrade --group dev pyproject.toml -o requirements-dev.lock
	@$(COMPILE) --constraint requirements-dev.lock pyproject.toml -o requirements.lock
	@printf 'hatchling>=1.27\neditables\n' | \
		$(COMPILE) --constraint requirements-dev.lock - -o requirements-build.lock
	@! grep -n '://' requirements*.lock

clean: ## Remove .venv and all that is made here
	@rm -rf .venv dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

setup:
	@scripts/setup run

setup-test:
	@scripts/setup test

setup-bench:
	@scripts/setup bench
