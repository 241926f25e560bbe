PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# The Axolotls that `make test-hosts` tests, each in an environment of its own.
HOSTS ?= 0.19 0.20 0.21

export AXOLOTL_DO_NOT_TRACK := 1
export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: install demo docs site test test-fast test-hosts lint clean

install: $(INSTALLED)

# pip takes the newest Axolotl that the Python at hand allows. Old pips try versions for minutes.
$(INSTALLED): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --upgrade pip
	$(BIN)/python -m pip install -e '.[train,local,evaluate,dev,docs]'
	touch $@

demo: $(INSTALLED)
	$(BIN)/axolotl-ual demo --output demo-output

test: $(INSTALLED)
	$(BIN)/python -m pytest

# No process, no compiler, under three minutes on two cores.
test-fast: $(INSTALLED)
	$(BIN)/python -m pytest -m 'not slow'

test-hosts:
	tests/hosts.sh $(HOSTS)

# Pages that the settings, the commands and the rules tell.
docs: $(INSTALLED)
	for page in settings commands support; do $(BIN)/axolotl-ual agent-docs $$page > docs/$$page.md; done

# build/site: HTML, the Markdown of each page beside it, and llms.txt.
site: $(INSTALLED)
	site/build.sh $(BIN)/

lint: $(INSTALLED) site
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy axolotl_ual preprocess examples/demo

clean:
	rm -rf demo-output build dist *.egg-info .hosts .pytest_cache .mypy_cache .ruff_cache
