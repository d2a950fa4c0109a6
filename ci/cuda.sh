#!/usr/bin/env bash
# Lints, builds and links the features `cuda` and `flash-attn`, and runs those of their tests that need no GPU. Needs
# neither a GPU nor a driver; without a CUDA toolkit (nvcc on the PATH or under CUDA_HOME) it takes one from PyPI, which
# needs python3 with pip or venv. Runs from any directory.
#
# Measured once on 2 cores with empty caches and an empty target folder: 982 s. Toolchain 10 s (where the downloads took
# 21 s another time), FlashAttention-2 221 s, first lint with candle's kernels 305 s, second lint 13 s, binary 268 s, tests
# 162 s. After ci/check.sh in the same target folder the crates that do not depend on candle are there already.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

step() {
    echo "+ $*"
    "$@"
}

PATH=$PATH:${CUDA_HOME:-/usr/local/cuda}/bin
if ! command -v nvcc >/dev/null; then
    exports=$(bash ci/cuda-toolchain.sh --print-env)
    eval "$exports"
fi
toolkit=$(dirname "$(dirname "$(command -v nvcc)")")
export CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP:-90} CUDAFORGE_THREADS=${CUDAFORGE_THREADS:-$(nproc)}

# The crate's kernels as machine code, for the oldest capability and for the default one: PTX alone would only be
# assembled by the driver.
assemble_kernels() {
    local out cap type
    out=$(mktemp -d)
    for cap in 80 90; do
        for type in F32 BF16; do
            step nvcc -cubin "-arch=sm_$cap" -O3 --fmad=true -std=c++17 "-DT_$type" -Xptxas -warn-spills \
                -o "$out/kernels.cubin" harness/src/model/gpu/kernels.cu
        done
    done
    rm -rf "$out"
}

# Without a driver the stub of libcuda lets the binaries start; each call of it says that there is no device.
run_tests_without_gpu() {
    local stub=$toolkit/lib/stubs
    if ldconfig -p 2>/dev/null | grep -q 'libcuda\.so\.1'; then
        stub=
    elif [[ ! -e $stub/libcuda.so.1 ]]; then
        echo "cuda.sh: built, but NOT run: no driver here, and no stub of libcuda.so.1 in $stub"
        return
    fi
    export LD_LIBRARY_PATH=$toolkit/lib64${stub:+:$stub}${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
    step cargo test --locked --features flash-attn --lib gpu::
}

assemble_kernels
step bash ci/flash-attention.sh
step cargo clippy --locked --all-targets --features cuda -- -D warnings
step cargo clippy --locked --all-targets --features flash-attn -- -D warnings
step cargo build --locked --features flash-attn
run_tests_without_gpu
