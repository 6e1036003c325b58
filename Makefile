# The book in two commands: `make book` builds it, `make test` proves it.
.DEFAULT_GOAL := help
PYTHON ?= python3
PORT ?= 8000
IN_VENV := .venv/bin/python

# One thread to a process: chapters run side by side, and sums keep one order.
export OMP_NUM_THREADS := 1
export OPENBLAS_NUM_THREADS := 1
export MKL_NUM_THREADS := 1
export PYTHONHASHSEED := 0
# Parameters and the chapter's number reach the scripts through the environment, quotes intact.
export P
export N
export SEEDS

.PHONY: help environment book chapter serve test verdicts times bench lock clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

environment: ## make or update .venv from requirements.txt
	@$(PYTHON) -E book/kvbook/build/environment.py

book: environment ## execute what changed, then build the book (P="seed=7" for a run of your own)
	@$(IN_VENV) -m kvbook.build.execute --parameters "$$P"
	@$(IN_VENV) -m kvbook.build.pages --parameters "$$P"
	@$(IN_VENV) -m kvbook.build.render --parameters "$$P"

chapter: environment ## execute one chapter again: make chapter N=2 [P="seed=7 trials=100"]
	@$(IN_VENV) -m kvbook.build.execute --chapter "$$N" --parameters "$$P"

serve: environment ## show the built book on localhost (PORT=8000)
	@$(IN_VENV) -m kvbook.build.serve --port $(PORT)

test: environment ## everything that must hold: style, types, tests, notebooks, book, browser
	@$(IN_VENV) -m kvbook.build.gate

verdicts: environment ## each verdict under other root seeds: make verdicts SEEDS=10 [N=7]
	@$(IN_VENV) -m kvbook.build.verdicts --seeds "$${SEEDS:-10}" --chapter "$$N"
	@$(IN_VENV) -m kvbook.build.pages

times: environment ## measure each chapter alone and rewrite book/run_times.json
	@$(IN_VENV) -m kvbook.build.execute --times
	@$(IN_VENV) -m kvbook.build.pages

bench: ## time kvlib beside other packages (STAGES="codec-1 kl" for some), to _build/bench.json
	@$(PYTHON) book/kvbook/bench/run.py --stages $(STAGES)

lock: environment ## pin requirements.txt again from pyproject.toml (needs the network)
	@$(IN_VENV) -m kvbook.build.lock

clean: ## remove what was built (the environment stays)
	rm -rf _build
