# `make tables` and `make test` set up what they need. Everything lands in this folder; nothing needs root.
PYTHON ?= python3
STUDY ?= digits
SCALE ?= full
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export VIRTUAL_ENV := $(CURDIR)/.venv

.PHONY: tables test test-system test-long test-gpu test-lowest benchmark setup ui lint clean

tables: setup  ## run the study and print its table; where a run failed, the table shows its cell as missing
	@snakemake --profile local --config study=$(STUDY) scale=$(SCALE) || { code=$$?; \
	  [ $$code = 2 ] || { noah collect $(STUDY) --scale $(SCALE) && noah compare $(STUDY) --scale $(SCALE) && \
	  noah table $(STUDY) --scale $(SCALE) && noah table $(STUDY) --scale $(SCALE) --show; }; exit $$code; }
	@noah table $(STUDY) --scale $(SCALE) --show --against docs/results

LOWEST = tests/heads tests/models tests/engine tests/evaluate tests/data tests/report tests/config tests/test_precision.py

test: setup  ## no root, no services, under 10 minutes
	pytest -n 2 --dist loadfile

test-system: setup  ## MLflow's page in Chromium, a DVC clone, a real Slurm (if NOAH_TEST_SLURM=1); .ci/setup.sh installs what they need
	pytest -m system

test-long: setup  ## the full counts, by hand
	pytest -m long

test-gpu: setup  ## on a machine with a GPU; benchmarks/gpu.sh does this and more without installing anything
	pytest -m gpu

test-lowest:  ## with the oldest packages that pyproject.toml admits, in a folder of its own: some 7 GB to fetch, by hand
	test -x .venv-lowest/bin/uv || { $(PYTHON) -m venv .venv-lowest && .venv-lowest/bin/pip install --quiet uv; }
	VIRTUAL_ENV=$(CURDIR)/.venv-lowest .venv-lowest/bin/uv pip install --resolution lowest-direct --editable '.[test]'
	PATH=$(CURDIR)/.venv-lowest/bin:$$PATH .venv-lowest/bin/pytest -n 2 --dist loadfile $(LOWEST)

BENCHMARKS ?= head step switches trainer shard loader pipeline
GOALS = mobilenetv2-w0.5 mobilenetv2-w1 resnet18-w1 deit_tiny-w1
REPORTS = docs/benchmarks/$(shell date +%F)

benchmark: setup  ## an hour on cores that nobody else uses; `pipeline` needs a study that was made (make tables)
	for verb in $(BENCHMARKS); do noah benchmark $$verb --out $(REPORTS) || exit; done
	noah benchmark head --memory kept --out $(REPORTS)/kept
	noah benchmark head --channels-last --dtype fp32 --batch 64 --out $(REPORTS)/channels-last
	noah benchmark head --classes 10 --dtype fp32 --impl cpu --impl reference --out $(REPORTS)/ten-classes
	noah benchmark step $(GOALS:%=--backbone %) --rounds 15 --out $(REPORTS)/goals

setup: .venv/.ready  ## packages, the embedded data, a local MLflow store
	noah fetch digits
	noah track --init

.venv/.ready: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "noah needs Python 3.11 or newer; try make PYTHON=python3.12"'
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

ui: setup  ## browse the tracked runs at http://127.0.0.1:5000
	noah ui

lint: setup
	ruff check .
	ruff format --check .
	snakemake --lint --config study=digits scale=full

clean:  ## packages, caches and logs; never data, shards, results, state or tracked runs
	rm -rf .venv .venv-lowest .pytest_cache .ruff_cache .hypothesis logs report.zip src/noah.egg-info
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
