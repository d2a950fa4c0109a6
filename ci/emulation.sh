#!/usr/bin/env bash
# Runs the GPU kernels on the processor, through the model that uses them, against the processor's own path. Needs a C++
# compiler, neither a GPU nor a CUDA toolkit. Runs from any directory.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

step() {
    echo "+ $*"
    "$@"
}

step cargo clippy --locked --all-targets --features cuda-emulation -- -D warnings
step cargo test --locked --features cuda-emulation --test tests -- card::
