# `make verify` and `make test` set up .venv first, once; PYTHON=… and TORCH=cpu|cuda steer that (tools/setup.sh).
# ARGS=… is passed on: make test ARGS='-k window', make verify ARGS='--json out.json'.

.DEFAULT_GOAL := help
.PHONY: help setup verify test notebooks lint format constraints clean
unexport PYTHONPATH PYTHONHOME

help:            ## this list
	@sed -n 's/^\([a-z]*\):[^#]*## /  make \1\t/p' Makefile | expand -t 22

setup:           ## make .venv, or make it anew where its inputs changed
	@tools/setup.sh

verify: setup    ## the main job: compare every pair of forms, and third-party modules
	@.venv/bin/equiv verify $(ARGS)

test: setup      ## all tests; one thread for each of as many processes as there are cores
	@OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n auto $(ARGS)

notebooks: setup ## execute the scripts in proofs/ and write their notebooks anew
	@.venv/bin/python proofs/build.py $(ARGS)

lint: setup      ## ruff and mypy
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

format: setup    ## let ruff rewrite what it can
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

constraints:     ## pin anew, in constraints.txt, everything but torch at its newest version
	@tools/pin.sh

clean:           ## remove .venv, caches and built files
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
