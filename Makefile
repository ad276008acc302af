# Everything runs in .venv, which the first target that needs it sets up (about a minute).
PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
PIP    := $(VENV)/bin/pip --disable-pip-version-check -q

.PHONY: help setup build demo serve test test-full lint types sanitize wheel bench-smoke gate bench clean

help:            ## what there is
	@grep -hE '^[a-z-]+: .*## ' $(MAKEFILE_LIST) | sed 's/:[^#]*##/\t/' | expand -t 14
	@echo "first time: make demo"

$(VENV)/.ready: pyproject.toml
	@echo "setting up $(VENV) ..."
	@$(PYTHON) -c 'import sys; sys.exit("chot needs Python 3.11 or newer") if sys.version_info < (3, 11) else 0'
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install 'setuptools>=80' 'Cython>=3.3,<3.4'
	@$(PIP) install --no-build-isolation -e '.[test]'
	@touch $@

setup: $(VENV)/.ready   ## own virtual environment with the native core built

build: setup     ## the native core again, after an edit in native/
	@$(PY) setup.py -q build_ext --inplace

demo: build      ## the main job on recorded frames, ends by itself within a minute
	@$(VENV)/bin/chot demo

serve: build     ## an engine with the example registry that keeps running
	@$(VENV)/bin/chot serve --data var/chot --registry docs/examples/registry

test: build      ## the test suite
	@$(PY) -m pytest -m 'not full'

test-full: build ## the test suite and what takes longer
	@$(PY) -m pytest

$(VENV)/.lint: $(VENV)/.ready
	@$(PIP) install --no-build-isolation -e '.[test,lint,build]'
	@touch $@

lint: $(VENV)/.lint     ## style of Python and Cython
	$(VENV)/bin/ruff check engine bench tests setup.py
	$(VENV)/bin/ruff format --check engine bench tests setup.py
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" $(VENV)/bin/cython-lint native

types: $(VENV)/.lint build   ## types of engine and bench, stubs of native
	$(VENV)/bin/mypy
	$(VENV)/bin/stubtest --mypy-config-file pyproject.toml native.cpu native.rows native.wire native.dedup native.hmac native.plain \
	    native.index native.contacts native.tiers native.links native.walks native.counts native.found native.scans native.places native.visits native.numbers native.together native.stream native.columns native.days native.packing \
	    native.jpeg.luma native.jpeg.header native.jpeg.entropy \
	    native.qr.symbol native.qr.correct native.qr.bits native.qr.matrix native.qr.luma \
	    native.qr.threshold native.qr.reader native.qr.lane

sanitize: setup  ## native tests under AddressSanitizer and UBSan
	bash tests/native/run_sanitized.sh -m 'not full'
	bash tests/native/run_sanitized.sh -m full -k test_rows

wheel: $(VENV)/.lint    ## sdist, wheel from the sdist, tested from another folder
	bash tests/e2e/check_wheel.sh

bench-smoke: build      ## every benchmark, small
	@$(PY) -m bench smoke

gate: build      ## has a hot path become slower? (bench/gates.toml)
	@$(PY) -m bench gate

# Every figure of the pages. Only on a quiet machine; the lines stay in bench/results. A step that
# fails does not stop the later ones; the exit status tells, and the report is written all the same.
PEERED  := jpeg decode lanes parse records dedup gateway receive ingest commit index trace contacts
BENCHES := $(foreach case,$(PEERED),"run $(case) --servers") \
  "run core_lanes --large" "run day --large" "run scale --large" \
  "budget" "qr" "verdicts" "backlog" "answers" "receipt" "questions --visits 10000000" \
  "growth --visits 50000000"

bench: build     ## measure everything and write the pages anew, 40 minutes
	@$(PIP) install --no-build-isolation -e '.[test,bench]'
	@failed=; for words in $(BENCHES); do \
	  echo "== bench $$words"; $(PY) -m bench $$words --keep || failed="$$failed  bench $$words\n"; done; \
	$(PY) -m bench report || failed="$$failed  bench report\n"; \
	[ -z "$$failed" ] || { printf "failed:\n$$failed"; exit 1; }

clean:           ## build output and the environment
	rm -rf build dist $(VENV) *.egg-info native/*.so native/*/*.so
