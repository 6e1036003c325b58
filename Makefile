# The book in two commands: `make book` builds it, `make test` proves it.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV ?= .venv
PORT ?= 8000
SEEDS ?= 10
# -E: what the user's PYTHON... variables name is not the book's.
IN_VENV := exec "$(VENV)/bin/python" -E
# An interpreter that is named must be the environment's; otherwise the environment's is kept.
NAMED := $(if $(filter file,$(origin PYTHON)),,--named)
CHECKS := lint types tests notebooks html pages

# One thread to a process: chapters run side by side, and sums keep one order.
export OMP_NUM_THREADS := 1
export OPENBLAS_NUM_THREADS := 1
export MKL_NUM_THREADS := 1
export PYTHONHASHSEED := 0
# What a user gives reaches the scripts through the environment, quotes intact.
export P
export N
export PORT
export SEEDS
export STAGES

# Recipes end in `exec`, so that a signal to make reaches the tool and not a shell before it.
.PHONY: help environment book chapter serve test $(CHECKS) verdicts times bench lock clean
.NOTPARALLEL:

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

environment: ## make or update .venv from requirements.txt (VENV=.venv-3.13 PYTHON=python3.13)
	@exec "$(PYTHON)" -E book/kvbook/build/environment.py --venv "$(VENV)" $(NAMED)

book: environment ## execute what changed, then build the book (P="seed=7" for a run of your own)
	@$(IN_VENV) -m kvbook.build.book --parameters "$$P"

chapter: environment ## execute one chapter again: make chapter N=2 [P="seed=7 trials=100"]
	@$(IN_VENV) -m kvbook.build.execute --chapter "$$N" --parameters "$$P"

serve: environment ## show the built book on localhost (PORT=8000)
	@test -f _build/html/index.html || \
	  { echo "error: there is no built book yet; run \`make book\` first" >&2; exit 1; }
	@case "$$PORT" in ''|*[!0-9]*|??????*) false;; *) [ "$$PORT" -le 65535 ];; esac || \
	  { echo "error: PORT must be a number up to 65535, got '$$PORT'" >&2; exit 1; }
	@$(IN_VENV) -m http.server --bind 127.0.0.1 --directory _build/html "$$PORT"

test: environment ## everything that must hold: the six targets below, all of them
	@$(IN_VENV) -m kvbook.build.stage --forget
	-@exec $(MAKE) -f "$(firstword $(MAKEFILE_LIST))" --no-print-directory --keep-going $(CHECKS)
	@$(IN_VENV) -m kvbook.build.stage --summary $(CHECKS)

lint: environment ## style: ruff
	@$(IN_VENV) -m kvbook.build.stage lint "ruff check ." "ruff format --check ."

types: environment ## types: mypy, strict
	@$(IN_VENV) -m kvbook.build.stage types "mypy"

tests: environment ## the tests of kvlib, of the ledger, of the chapters and of the build
	@$(IN_VENV) -m kvbook.build.stage tests 'pytest -n {jobs} -m "not built" tests'

# nbval must keep the cells of one notebook together, hence loadfile.
notebooks: environment ## every notebook again: each printed number must be the committed one
	@$(IN_VENV) -m kvbook.build.stage notebooks "pytest -n {jobs} --dist loadfile --nbval \
	  --nbval-current-env --nbval-cell-timeout 600 notebooks"

html: environment ## the book's pages from the notebooks as they are
	@$(IN_VENV) -m kvbook.build.stage html "kvbook.build.render"

pages: html ## the built pages: links, pictures, and a browser without network
	@$(IN_VENV) -m kvbook.build.stage pages "pytest -n {jobs} -m built -rs tests"

verdicts: environment ## each verdict under other root seeds: make verdicts SEEDS=10 [N=7]
	@$(IN_VENV) -m kvbook.build.verdicts --seeds "$$SEEDS" --chapter "$$N"
	@$(IN_VENV) -m kvbook.build.pages

times: environment ## measure each chapter alone and rewrite book/run_times.json
	@$(IN_VENV) -m kvbook.build.execute --times
	@$(IN_VENV) -m kvbook.build.pages

bench: ## time kvlib beside other packages (STAGES="codec-1 kl" for some), to _build/bench.json
	@exec "$(PYTHON)" -E book/kvbook/build/bench.py --stages "$$STAGES"

lock: environment ## pin requirements.txt again from pyproject.toml (needs the network)
	@$(IN_VENV) -m kvbook.build.lock

clean: ## remove what was built (the environment stays)
	rm -rf _build
