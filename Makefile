# Everything that one does with this repository. `make` alone lists the targets.
# .ci/run calls the same ones, with VENV and INSTALL pointing at a built wheel.

PYTHON  ?= python3
VENV    ?= .venv
# What goes into the environment: this checkout (editable), or the path of a wheel.
INSTALL ?= .
# More words for pytest, a benchmark or the corpus: make test ARGS="-k leaks -x"
ARGS    ?=

GROUPS  := tests typing lint benchmarks
CORPUS  := ../shared/corpus
PY      := $(VENV)/bin/python
READY   := $(VENV)/.ready
# All extras: mypy must see every optional package. That none of them is needed, the tests check.
WANTED   = $(if $(filter .,$(INSTALL)),-e) '$(INSTALL)[all]' $(GROUPS:%=--group %)

.DEFAULT_GOAL := help
.PHONY: help setup demo test check docs bench corpus clean

help: ## List the targets
	@echo 'make TARGET [PYTHON=python3.12] [ARGS="..."]'
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  \1\t\2/p' Makefile | expand -t 12

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

bench: $(READY) ## Run every benchmark, and write docs/reference/benchmarks.md
	@for bench in benchmarks/bench_*.py; do \
	    [ -e "$$bench" ] || { echo "no benchmarks/bench_*.py"; exit 1; }; \
	    echo "== $$bench"; $(PY) "$$bench" $(ARGS) || exit 1; \
	done
	$(PY) benchmarks/render.py

# On a copy, as the runner writes its results beside itself.
corpus: $(READY) ## Judge `sockguard report` by the corpus of real leaks, where it is at hand
	@if [ ! -x $(CORPUS)/run_all.sh ]; then echo "SKIPPED: $(CORPUS) is not here"; exit 0; fi; \
	copy=$$(mktemp -d) && trap 'rm -rf "$$copy"' EXIT && cp -r $(CORPUS)/. "$$copy" && chmod -R u+w "$$copy" \
	&& CORPUS_INSTALL="$(CURDIR)[cli]" CORPUS_REPORT="$(abspath $(PY)) -m sockguard report" "$$copy"/run_all.sh $(ARGS) \
	&& $(PY) tools/corpus_healthy.py "$$copy" "$${CORPUS_VENVS:-$${XDG_CACHE_HOME:-$$HOME/.cache}/sockguard-corpus}"

clean: ## Remove what the other targets made
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find sockguard tests tools benchmarks -name __pycache__ -prune -exec rm -rf {} +
