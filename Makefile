# `make demo` and `make test` do all the set-up themselves; both are safe to repeat.
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell for v in 3.11 3.12 3.13; do p=$$(command -v python$$v) && $$p -c '' 2>/dev/null && echo $$p && break; done)

.PHONY: demo test headers test-device test-torch lint bench docs lock clean experiments-quantization quantization-parity experiments-cross-modal experiments-adaptation experiments-distillation

demo: $(VENV)/.product
	$(BIN)/python stm32ai_main.py --config-name chain_tqeb_config.yaml

test: lint
	@$(MAKE) --silent headers || echo "ONNX Runtime's header cannot be had: the tests of the C++ runner are skipped"
	$(BIN)/python -m pytest -n 2 --dist worksteal

# The header that ONNX Runtime's Python package lacks, out of Debian's package, which is not installed.
HEADERS := .headers
HEADERS_DEB := http://deb.debian.org/debian/pool/main/o/onnxruntime/libonnxruntime-dev_1.21.0+dfsg-1_amd64.deb
HEADERS_SHA256 := 14f7d959d5deacbcf1504830d4189f91fc67382b399ed9ae9d3aa9c4050ced08
headers: $(HEADERS)/.extracted
$(HEADERS)/.extracted:
	mkdir -p $(HEADERS)
	curl --fail --silent --show-error --retry 2 --max-time 60 --output $(HEADERS)/headers.deb "$(HEADERS_DEB)"
	echo "$(HEADERS_SHA256)  $(HEADERS)/headers.deb" | sha256sum --check --quiet
	dpkg-deb --extract $(HEADERS)/headers.deb $(HEADERS)
	touch $@

# Qualcomm's client of AI Hub, which pins an older protobuf, against a stand-in of the service.
DEVICE := .venv-device
test-device: $(DEVICE)/.installed
	$(DEVICE)/bin/python -m pytest tests/common/deployment/test_ai_hub_client.py
$(DEVICE)/.installed: requirements-device.txt
	$(PYTHON) -m venv $(DEVICE)
	$(DEVICE)/bin/pip install --disable-pip-version-check --progress-bar off -q -r requirements-device.txt $$(grep "^pytest==" requirements-dev.txt)
	touch $@

# PyTorch, which reads published checkpoints where a user has it: a large download that the product does without.
TORCH := .venv-torch
test-torch: $(TORCH)/.installed
	$(TORCH)/bin/python -m pytest tests/src/tools/test_import_checkpoint_torch.py
$(TORCH)/.installed: requirements.txt
	$(PYTHON) -m venv $(TORCH)
	$(TORCH)/bin/pip install --disable-pip-version-check --progress-bar off -q -r requirements.txt torch==2.13.0 $$(grep "^pytest==" requirements-dev.txt)
	touch $@

lint: $(VENV)/.development
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy

bench: $(VENV)/.development
	@for script in tests/benchmarks/bench_*.py; do echo "== $$script"; $(BIN)/python -m "$$(echo $${script%.py} | tr / .)" || failed=1; done; exit $${failed:-0}

experiments-cross-modal: $(VENV)/.product
	$(BIN)/python -m src.tools.cross_modal_experiment

experiments-adaptation: $(VENV)/.product
	$(BIN)/python -m src.tools.adaptation_experiment

experiments-distillation: $(VENV)/.product
	$(BIN)/python -m src.tools.distillation_experiment

experiments-quantization: $(VENV)/.product
	$(BIN)/python -m src.tools.quantization_experiment

quantization-parity: $(VENV)/.product
	$(BIN)/python -m src.tools.quantization_parity

docs: $(VENV)/.development
	$(BIN)/python -m src.tools.make_docs

# Pin again after a change of a .in file.
lock: $(VENV)/.development
	$(BIN)/pip-compile $(LOCK) --output-file=requirements.txt requirements.in
	$(BIN)/pip-compile $(LOCK) --output-file=requirements-dev.txt requirements-dev.in
	$(BIN)/pip-compile $(LOCK) --output-file=requirements-gpu.txt requirements-gpu.in
	$(BIN)/pip-compile $(LOCK) --output-file=requirements-device.txt requirements-device.in
LOCK := --quiet --allow-unsafe --strip-extras --no-emit-index-url --no-emit-find-links --no-emit-trusted-host

$(VENV)/.created:
	@test -n "$(PYTHON)" || { echo "error: Python 3.11, 3.12 or 3.13 is needed; none was found. Set it with: make PYTHON=/path/to/python"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	touch $@

# The stamp holds the checksum of what is installed: a checkout that only touches the file's time installs nothing.
$(VENV)/.product: requirements.txt | $(VENV)/.created
	@sha256sum requirements.txt | cmp -s - $@ || { $(BIN)/pip install --disable-pip-version-check --progress-bar off -q -r requirements.txt && sha256sum requirements.txt > $@.tmp && mv $@.tmp $@; }
	@touch $@

$(VENV)/.development: requirements-dev.txt $(VENV)/.product
	@sha256sum requirements-dev.txt | cmp -s - $@ || { $(BIN)/pip install --disable-pip-version-check --progress-bar off -q -r requirements-dev.txt && sha256sum requirements-dev.txt > $@.tmp && mv $@.tmp $@; }
	@touch $@

# What is made again by itself; experiments_outputs holds trained models and stays.
clean:
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find common datasets src tests -name __pycache__ -type d -prune -exec rm -rf {} +
