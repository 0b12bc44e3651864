#!/bin/sh
# From an empty machine to the paper's two tables. Prints the commands; RUN=1 runs them. Each of them
# continues where it was cut off, so the whole of it can be started again.
#
#   GPUS=8 PRECISION=bf16 tools/paper.sh         eight H100
#   ACCUMULATE=4 tools/paper.sh                  one GTX 1080 Ti: 11 GB, float32
#
# General100 has no download of its own: `srtool assets add General-100.zip` beforehand, or it is
# left out of table 1.
set -eu
GPUS=${GPUS:-1} ACCUMULATE=${ACCUMULATE:-1} PRECISION=${PRECISION:-fp32}
RUNS=${RUNS:-runs/paper} SRTOOL=${SRTOOL:-srtool} PYTHON=${PYTHON:-python}
DATA=${SRTOOL_ASSETS:-${XDG_CACHE_HOME:-$HOME/.cache}/srtool}/data

step() {
    echo "$@"
    if [ -n "${RUN:-}" ]; then "$@"; fi
}

train() { # recipe that ships, name of the run, and more options
    recipe=$RUNS/$2.yaml out=$RUNS/$2
    set -- "$@" --data "$RUNS/DIV2K.h5" --out "$out"
    text="{extends: $1, accumulate: $ACCUMULATE, precision: $PRECISION}"
    shift 2
    echo "echo '$text' >$recipe"
    if [ -n "${RUN:-}" ]; then echo "$text" >"$recipe"; fi
    if [ "$GPUS" -gt 1 ]; then
        set -- accelerate launch --num_processes "$GPUS" -m srtool train "$recipe" "$@"
    else
        set -- "$SRTOOL" train "$recipe" "$@"
    fi
    step "$@"
}

step mkdir -p "$RUNS"
step "$SRTOOL" assets fetch niqe ma alexnet vgg19 DIV2K Set5 Set14 BSD100 Urban100
[ -f "$RUNS/DIV2K.h5" ] || step "$SRTOOL" train prepare "$DATA/DIV2K" --out "$RUNS/DIV2K.h5"

train paper.yaml full
# Stage 1 is the same; without the gradient branch the generator is another.
train paper_no_gradient_branch.yaml no_gradient_branch
train paper_no_unet.yaml no_unet --stage 2 --start-from "$RUNS/full/stage1.safetensors"
train paper_no_lpips.yaml no_lpips --stage 2 --start-from "$RUNS/full/stage1.safetensors"

sets="$DATA/Set5 $DATA/Set14 $DATA/BSD100 $DATA/Urban100"
if [ -d "$DATA/General100" ]; then sets="$sets $DATA/General100"; fi
# shellcheck disable=SC2086
step "$SRTOOL" evaluate $sets --engine bicubic-float \
    --engine "srtool=$RUNS/full/generator.safetensors" --paper --out "$RUNS/table1"
step "$PYTHON" tools/ablation.py --data "$DATA/Set14" --data "$DATA/BSD100" --work "$RUNS/table2" \
    "full=$RUNS/full/generator.safetensors" \
    "no_gradient_branch=$RUNS/no_gradient_branch/generator.safetensors" \
    "no_unet=$RUNS/no_unet/generator.safetensors" \
    "no_lpips=$RUNS/no_lpips/generator.safetensors"
