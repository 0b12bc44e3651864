# Everything runs in .venv, which is made when it is missing: Python 3.10 to 3.13 and make suffice.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test slow-test models results readme gpu-check check format clean

# TensorRT-RTX builds plans for GPUs that are elsewhere; it has wheels for this platform.
PLAN := $(if $(findstring Linux x86_64,$(shell uname -sm)),--gpu "RTX 4090")

## demo: export the shipped network, upscale the sample photographs, show the gain over bicubic
demo: .venv/demo.stamp
	$(BIN)/srtool export weights/x4-lite.safetensors -o demo/x4.onnx $(PLAN)
	$(BIN)/srtool infer samples/LRx4 --engine demo/x4.onnx -o demo/upscaled --overwrite
	$(BIN)/srtool evaluate samples --engine bicubic --engine demo/upscaled --metrics psnr
	$(if $(PLAN),$(BIN)/srtool engine explain demo/x4.plan)
	@echo "The upscaled photographs are in demo/upscaled, the originals in samples/HR."

## test: the fast tests
test: .venv/dev.stamp
	$(BIN)/pytest -m "not slow and not gpu"

## slow-test: the tests that take minutes
slow-test: .venv/dev.stamp
	$(BIN)/pytest -m slow

## models: write the networks that ship in the wheel from weights/
models: .venv/dev.stamp
	$(BIN)/python tools/models.py

# Part of the names of the results: each machine keeps its own.
MACHINE ?= cpu
SPEED := results/speed
# Weights that others published, such as realesr-animevideov3.pth: left out where they are not here.
OTHERS ?=

## results: measure this machine for an hour, write results/ and the READMEs' figures
results: .venv/dev.stamp
	$(BIN)/srtool bench --preset full --backend all --sizes 96x96,192x192 --seconds 15 \
		--files 6 --out $(SPEED)-full-$(MACHINE).json
	$(BIN)/srtool bench weights/x4-lite.safetensors --backend all --seconds 15 \
		--sizes 64x64,128x128,256x256 --scaling size,files,tile,batch,threads \
		--out $(SPEED)-lite-$(MACHINE).json
	for weights in $(OTHERS); do $(BIN)/srtool bench $$weights --backend all --seconds 9 \
		--sizes 128x128,256x256 --files 100 \
		--out $(SPEED)-$$(basename $${weights%.*})-$(MACHINE).json || exit 1; done
	$(MAKE) readme

## readme: write the tables and the plot of the READMEs from results/
readme: .venv/dev.stamp
	$(BIN)/python tools/readme.py README.md weights/README.md \
		--plot docs/throughput.png

## gpu-check: on a machine with an NVIDIA GPU, build, certify and measure each engine that it can run
gpu-check: .venv/dev.stamp
	$(BIN)/python tools/gpu_check.py --preset full --model weights/x4-lite.safetensors
	$(BIN)/pytest -m gpu tests/runtime

## check: lint, format, types and import directions
check: .venv/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

## format: let ruff rewrite the code
format: .venv/dev.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv demo build src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' \
		|| { echo "srtool needs Python 3.10 to 3.13; name one: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv .venv

.venv/demo.stamp: pyproject.toml | .venv/bin/python
	$(BIN)/pip install --quiet --editable ".[cpu,export,bench,rtx]"
	@touch $@

.venv/dev.stamp: pyproject.toml | .venv/bin/python
	$(BIN)/pip install --quiet --editable ".[cpu,train,export,bench,rtx,dev]"
	@touch $@ .venv/demo.stamp
