# Everything runs in .venv, which is made when it is missing: Python 3.10 to 3.13 and make suffice.
PYTHON ?= python3
BIN := .venv/$(if $(filter Windows_NT,$(OS)),Scripts,bin)

.PHONY: demo test slow-test triton-environment paper torture docs architectures models results readme gpu-check check format clean

## demo: upscale the sample photographs with the network that ships, show the gain over bicubic
demo: .venv/demo.stamp
	$(BIN)/srtool infer src/srtool/samples/LRx4 -o demo/upscaled --overwrite
	$(BIN)/srtool evaluate src/srtool/samples --engine bicubic --engine demo/upscaled --metrics psnr
	@echo "The upscaled photographs are in demo/upscaled, the originals in src/srtool/samples/HR."

## test: the fast tests, in two processes, a file of tests in one of them
test: .venv/dev.stamp
	$(BIN)/pytest -n 2 --dist loadfile -m "not slow and not gpu and not network"

## slow-test: the tests that take minutes
slow-test: .venv/dev.stamp
	$(BIN)/pytest -m "slow and not gpu"

# NVIDIA's Triton server in an environment of its own: its Python backend takes no NumPy 2.
TRITON := .venv/triton

## triton-environment: what the tests of `srtool triton` need; name it to them by SRTOOL_TRITON
triton-environment: $(TRITON)/made.stamp

$(TRITON)/made.stamp: | $(BIN)/python
	$(BIN)/python -m venv $(TRITON)
	$(TRITON)/bin/pip install --quiet "nvidia-pytriton==0.7.0" "numpy<2" --constraint deploy/constraints-triton.txt \
		onnxruntime openvino "pyvips[binary]" typer rich pydantic filelock
	@touch $@

## paper: print the commands from here to the paper's tables; make paper RUN=1 runs them (docs/tables.md)
paper: .venv/dev.stamp
	@SRTOOL=$(BIN)/srtool PYTHON=$(BIN)/python RUN=$(RUN) tools/paper.sh

## torture: kill, fuzz, fill the disk: half an hour, prints what was lost
torture: .venv/dev.stamp
	$(BIN)/python tools/torture.py --minutes 30

## models: write the networks that ship in the wheel from weights/
models: .venv/dev.stamp
	$(BIN)/python tools/models.py

## architectures: export and run a small network of every architecture, for docs/architectures.md
architectures: .venv/dev.stamp
	$(BIN)/python tools/matrix.py --again
	$(BIN)/python tools/matrix.py --table

## docs: build the pages of docs/ into site/; a warning is an error
docs: .venv/dev.stamp
	$(BIN)/mkdocs build --strict

# Part of the names of the results: each machine keeps its own.
MACHINE ?= cpu
SPEED := results/speed
# Weights that others published, such as realesr-animevideov3.pth: left out where they are not here.
OTHERS ?=

## results: measure this machine for an hour, write results/ and the READMEs' figures
results: .venv/dev.stamp
	$(BIN)/srtool bench --preset full --backend all --sizes 96x96,192x192 --seconds 15 \
		--files 6 --out $(SPEED)-full-$(MACHINE).json
	$(BIN)/srtool bench weights/x4-fast.safetensors --backend all --seconds 15 \
		--sizes 64x64,128x128,256x256 --scaling size,files,tile,batch,threads \
		--out $(SPEED)-fast-$(MACHINE).json
	for weights in $(OTHERS); do $(BIN)/srtool bench $$weights --backend all --seconds 9 \
		--sizes 128x128,256x256 --files 100 \
		--out $(SPEED)-$$(basename $${weights%.*})-$(MACHINE).json || exit 1; done
	$(MAKE) readme

## readme: write the tables and the plot of the READMEs from results/
readme: .venv/dev.stamp
	$(BIN)/python tools/readme.py README.md weights/README.md docs/benchmarks.md docs/deploy.md docs/research.md \
		--plot docs/throughput.png

## gpu-check: on a machine with an NVIDIA GPU, build, certify and measure each engine that it can run
# In an environment of its own: two ONNX Runtimes in one leave the CPU alone.
gpu-check:
	test -x .venv-gpu/bin/python || $(PYTHON) -m venv .venv-gpu
	.venv-gpu/bin/pip install --quiet --editable ".[export,bench]" pytest packaging
	.venv-gpu/bin/python tools/gpu_install.py
	.venv-gpu/bin/python tools/gpu_check.py weights/*.safetensors
	.venv-gpu/bin/python tools/gpu_choices.py src/srtool/models/x4-fast.onnx
	-.venv-gpu/bin/python tools/gpu_engines.py prepare gpu-check/plans src/srtool/models/x4-fast.onnx
	.venv-gpu/bin/python tools/gpu_engines.py run gpu-check/plans gpu-check/engines.json
	.venv-gpu/bin/pytest -m gpu tests/runtime

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

PYTHON_HINT = name a Python 3.10 to 3.13 that is installed: make PYTHON=python3.12

$(BIN)/python:
	@command -v "$(PYTHON)" >/dev/null \
		|| { echo "PYTHON=$(PYTHON): there is no such program; $(PYTHON_HINT)" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' \
		|| { echo "PYTHON=$(PYTHON): is another version; $(PYTHON_HINT)" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null \
		|| { echo "PYTHON=$(PYTHON): makes no environments; on Debian and Ubuntu, apt install python3-venv" >&2; exit 1; }
	"$(PYTHON)" -m venv .venv

.venv/demo.stamp: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --editable ".[cpu,bench]"
	@touch $@

.venv/dev.stamp: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --editable ".[cpu,train,export,bench,baselines,rtx,serve,cloud,ray,triton,docs,dev]"
	@touch $@ .venv/demo.stamp
