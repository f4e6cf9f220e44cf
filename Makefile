# Every target brings its own environment: on a fresh machine `make world` is the only command needed.

-include .venv/choice.mk # the Python and torch build that the environment was last made with
PYTHON ?= python3
TORCH ?= $(PINNED_TORCH)
TORCH_INDEX ?=
GAME ?= pong
device ?= cpu

PINNED_TORCH := $(shell sed -n '/^torch==/p' constraints.txt)
CHOICE := $(strip $(PYTHON) $(TORCH) $(TORCH_INDEX))
DATA := $(if $(filter pong,$(GAME)),atari_pong,$(GAME))
EXTRAS := games,play,sweeps,docs,dev
PY := .venv/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check
ENV := .venv/ready

.DEFAULT_GOAL := help
.PHONY: help env data world play evaluate test test-slow lint bench bench-play docs figures tensorboard clean

help: ## show this list
	@echo "TinyWorlds: world models learned from plain video"
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile
	@echo
	@echo "  GAME=vizdoom            another game for data, world, play, evaluate; pong is Atari Pong"
	@echo "  device=cuda             where make bench measures"
	@echo "  PYTHON=python3.12       another Python, 3.11 to 3.13"
	@echo "  TORCH_INDEX=https://download.pytorch.org/whl/cpu     another torch build: cpu, cu126, ..."
	@echo "  TORCH=torch==2.12.0     another torch version"
	@echo "  The environment remembers these three; make env makes it anew when they change."

env: $(ENV) ## create or update .venv; does nothing when it is current

data: $(ENV) ## record or fetch the frames of GAME
	$(PY) -m tinyworlds.data.prepare data=$(DATA)

world: $(ENV) ## from nothing to a world of GAME: record, train three modules, imagine a rollout
	$(PY) train.py data=$(DATA)
	$(PY) play.py mode=rollout dataset=$(DATA)

play: $(ENV) ## play a world of GAME in the browser: the newest own one, or that which came along
	$(PY) play.py dataset=$(DATA)

evaluate: $(ENV) ## measure the newest world of GAME
	$(PY) -m tinyworlds.evaluate dataset=$(DATA)

test: $(ENV) ## run the tests, in less than five minutes
	$(PY) -m tests.browser
	$(PY) -m pytest -n auto --dist worksteal

test-slow: $(ENV) ## run the tests that take longer
	$(PY) -m pytest -n auto --dist worksteal -m slow || [ $$? -eq 5 ] # 5: there are none

lint: $(ENV) ## check style and types
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy

bench: $(ENV) ## time ours against plain versions, in eight minutes: docs/performance.md
	$(PY) -m benchmarks.bench device=$(device)

bench-play: $(ENV) ## measure the browser player, in 15 minutes: benchmarks/play.json
	$(PY) -m benchmarks.play

docs: $(ENV) ## build the pages in docs/ as a site in site/, to be read without a network
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict

figures: $(ENV) ## draw the figures of the pages that teach again
	$(PY) -m teaching

tensorboard: $(ENV) ## show the training runs in the browser
	$(PY) -m tensorboard.main --logdir runs

clean: ## remove caches and build products; keeps .venv, data/ and runs/
	rm -rf build dist site src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis outputs multirun
	find src tests benchmarks teaching -name __pycache__ -type d -prune -exec rm -rf {} +

ifneq ($(CHOICE),$(strip $(BUILT)))
.PHONY: $(ENV)
endif

# An environment that is not ready was interrupted, one of another choice holds the wrong packages: both are made anew.
$(ENV): pyproject.toml constraints.txt Makefile
	@command -v $(PYTHON) >/dev/null || { \
		echo "error: no $(PYTHON) here; choose a Python with make env PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
		echo "error: TinyWorlds runs on Python 3.11 to 3.13 and $(PYTHON) is $$($(PYTHON) -V);" \
			"choose another with make env PYTHON=/path/to/python3.12" >&2; exit 1; }
	@[ -e $(ENV) ] && [ "$(CHOICE)" = "$(strip $(BUILT))" ] || $(PYTHON) -m venv --clear .venv
	@rm -f $(ENV)
	@{ echo 'PYTHON ?= $(PYTHON)'; \
		$(if $(filter-out $(PINNED_TORCH),$(TORCH)),echo 'TORCH ?= $(TORCH)';) \
		$(if $(TORCH_INDEX),echo 'TORCH_INDEX ?= $(TORCH_INDEX)';) \
		echo 'BUILT := $(CHOICE)'; } > .venv/choice.mk
	@sed '/^torch==/d' constraints.txt > .venv/constraints.txt
	@echo "installing $(TORCH), then everything else, into .venv: this takes a minute or more"
	$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX),-c .venv/constraints.txt) $(TORCH)
	$(PIP) -c .venv/constraints.txt -e '.[$(EXTRAS)]'
	@touch $(ENV)
