# Everything that one does with this repository. `make` alone lists the targets.
# .ci/run calls the same ones, with VENV and INSTALL pointing at a built wheel.

PYTHON  ?= python3
VENV    ?= .venv
# What goes into the environment: this checkout (editable), or the path of a wheel.
INSTALL ?= .
# More words for pytest, a benchmark or the corpus: make test ARGS="-k leaks -x"
ARGS    ?=

MATRIX  ?= .venv-matrix
BENCH_VENV   ?= .venv-bench
BENCH_PLUGIN ?= .venv-bench-plugin
# The newest 3.12 of pyenv, else whichever Python: the one version that the guard's figures are of.
BENCH_PYTHON ?= $(firstword $(shell ls -rd $(HOME)/.pyenv/versions/3.12.*/bin/python 2>/dev/null) $(PYTHON))
BENCH_READY  := $(BENCH_VENV)/.ready
GROUPS  := tests typing lint benchmarks
CORPUS  := ../shared/corpus
PY      := $(VENV)/bin/python
READY   := $(VENV)/.ready
# All extras: mypy must see every optional package. That none of them is needed, the tests check.
WANTED   = $(if $(filter .,$(INSTALL)),-e) '$(INSTALL)[all]' $(GROUPS:%=--group %)

.DEFAULT_GOAL := help
.PHONY: help setup demo test check docs bench bench-guard bench-plugin bench-wrappers matrix differential conformance conformance-wrappers suites-of-others corpus clean

help: ## List the targets
	@echo 'make TARGET [PYTHON=python3.12] [ARGS="..."]'
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' Makefile | expand -t 16

setup: $(READY) ## Make .venv with sockguard and the tools; fast when it is there

# uv where there is one; if it is too old or kept from the network, the standard library's way.
$(READY): pyproject.toml $(filter %.whl,$(INSTALL))
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("sockguard needs Python 3.11 or newer, this is %d.%d: make PYTHON=python3.12" % sys.version_info[:2])'
	@echo "Setting up $(VENV) (less than a minute) ..."
	@{ command -v uv >/dev/null \
	    && uv venv --quiet --allow-existing --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" $(VENV) \
	    && uv pip install --quiet --python $(PY) $(WANTED); } \
	|| { $(PYTHON) -m venv $(VENV) \
	    && $(PY) -m pip install --quiet --upgrade 'pip>=25.1' \
	    && $(PY) -m pip install --quiet $(WANTED); }
	@touch $@

demo: $(READY) ## Watch a real leaking server being caught and healed
	@$(PY) -m sockguard demo $(ARGS)

# PYTHONSAFEPATH: neither pytest nor a `python -m sockguard` that a test starts picks up
# the checkout by its working directory; what is tested is what is installed.
test: $(READY) ## Run the tests
	PYTHONSAFEPATH=1 $(PY) -m pytest $(ARGS)

check: $(READY) ## Lint, format, types, architecture
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy --strict
	PYTHONSAFEPATH=1 $(PY) -m pytest --quiet tests/test_architecture.py

docs: ## Check that the links of all Markdown files hold
	$(PYTHON) tools/check_links.py

bench: $(READY) ## Run the short benchmarks, and write docs/reference/benchmarks.md
	@for bench in $(filter-out benchmarks/bench_guard_% benchmarks/bench_wrapper_% benchmarks/bench_plugin_%,$(wildcard benchmarks/bench_*.py)); do \
	    echo "== $$bench"; $(PY) "$$bench" $(ARGS) || exit 1; \
	done
	$(PY) benchmarks/render.py

# The programs that the guard is measured with: uvloop, uvicorn and gunicorn of the versions in benchmarks/requirements.txt,
# strace and wrk. Where the last two are missing and cannot be had, their benchmarks say that they are skipped.
$(BENCH_READY): pyproject.toml benchmarks/requirements.txt
	@echo "Setting up $(BENCH_VENV) (less than a minute) ..."
	@$(BENCH_PYTHON) -m venv $(BENCH_VENV) \
	    && $(BENCH_VENV)/bin/python -m pip install --quiet -e . -r benchmarks/requirements.txt
	@{ command -v strace && command -v wrk; } >/dev/null || apt-get install -qq -y --no-install-recommends strace wrk >/dev/null \
	    || echo "Could not install strace and wrk; going on without."
	@touch $@

bench-guard: $(BENCH_READY) ## Run the benchmarks of the guard: 25 minutes, with ARGS=--quick 3
	@bad=0; for bench in benchmarks/bench_guard_*.py; do \
	    echo "== $$bench"; $(BENCH_VENV)/bin/python "$$bench" $(ARGS) || bad=1; \
	done; $(BENCH_VENV)/bin/python benchmarks/render.py && exit $$bad

bench-wrappers: $(BENCH_READY) ## Run the benchmarks of the wrappers: 20 minutes, with ARGS=--quick 3
	@bad=0; for bench in benchmarks/bench_wrapper_*.py; do \
	    echo "== $$bench"; $(BENCH_VENV)/bin/python "$$bench" $(ARGS) || bad=1; \
	done; $(BENCH_VENV)/bin/python benchmarks/render.py && exit $$bad

$(BENCH_PLUGIN)/.ready: pyproject.toml benchmarks/plugin-requirements.txt
	@$(BENCH_PYTHON) -m venv $(BENCH_PLUGIN)
	@$(BENCH_PLUGIN)/bin/python -m pip install --quiet -e . -r benchmarks/plugin-requirements.txt
	@touch $@

bench-plugin: $(BENCH_PLUGIN)/.ready ## Run the benchmarks of the pytest plugin: its cost, and what it finds beside other tools
	@bad=0; for bench in benchmarks/bench_plugin*.py; do \
	    echo "== $$bench"; $(BENCH_PLUGIN)/bin/python "$$bench" $(ARGS) || bad=1; \
	done; $(BENCH_PLUGIN)/bin/python benchmarks/render.py && exit $$bad

$(MATRIX)/.ready: tests/faults/matrix-requirements.txt pyproject.toml
	@$(PYTHON) -m venv $(MATRIX)
	@$(MATRIX)/bin/python -m pip install --quiet -r $< -e '.[cli]'
	@touch $@

matrix: $(MATRIX)/.ready ## Every fault on every kind of server, with and without the guard: 10 minutes
	PYTHONPATH=tests $(MATRIX)/bin/python -P -m faults.matrix $(or $(ARGS),--page)

# Seeds differ from run to run and are printed: make differential ARGS="--seed 5".
differential: $(READY) ## Play 100,000 connections against bare and guarded servers, and compare
	PYTHONSAFEPATH=1 PYTHONPATH=tests $(PY) -m differential $(ARGS)

conformance: ## Run CPython's own suites guarded and compare every test, where their runner is at hand: 45 minutes, with ARGS=--short 4
	tools/conformance.sh $(ARGS)

conformance-wrappers: ## Run CPython's and anyio's own suites with our wrappers in the place of the originals: 10 minutes
	tools/conformance_wrappers.sh $(ARGS)

# With Python 3.12, for the versions in tools/suites_of_others/suites.toml. Of some only: ARGS="anyio requests".
suites-of-others: ## Run other projects' tests with the pytest plugin, and write docs/reference/suites-of-others.md: 45 minutes
	$(BENCH_PYTHON) tools/suites_of_others/run.py $(ARGS)

# On a copy, as the runner writes its results beside itself.
corpus: $(READY) ## Judge report and guard by the corpus of real leaks, where it is at hand
	@if [ ! -x $(CORPUS)/run_all.sh ]; then echo "SKIPPED: $(CORPUS) is not here"; exit 0; fi; \
	copy=$$(mktemp -d) && trap 'rm -rf "$$copy"' EXIT && cp -r $(CORPUS)/. "$$copy" && chmod -R u+w "$$copy" \
	&& CORPUS_INSTALL="$(CURDIR)[cli]" CORPUS_REPORT="$(abspath $(PY)) -m sockguard report" "$$copy"/run_all.sh $(ARGS) \
	&& $(PY) tools/corpus_healthy.py "$$copy" "$${CORPUS_VENVS:-$${XDG_CACHE_HOME:-$$HOME/.cache}/sockguard-corpus}" \
	&& $(PY) tools/corpus_guarded.py "$$copy"

clean: ## Remove what the other targets made
	rm -rf $(VENV) $(BENCH_VENV) $(BENCH_PLUGIN) $(MATRIX) .venv-suites .venv-wrappers-* build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find sockguard tests tools benchmarks -name __pycache__ -prune -exec rm -rf {} +
