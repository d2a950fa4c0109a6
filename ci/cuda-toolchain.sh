#!/usr/bin/env bash
# A CUDA 13.0 toolchain (nvcc, headers, cuBLAS, cuRAND) from PyPI wheels, for machines without one; where nvcc is on the
# PATH nothing of this is needed. No GPU or driver is needed to build.
#   ci/cuda-toolchain.sh [DIR]                sets it up (default: ${XDG_CACHE_HOME:-~/.cache}/harness-cuda)
#   ci/cuda-toolchain.sh --print-env [DIR]    the same, and prints what the shell must know:
#                                             eval "$(ci/cuda-toolchain.sh --print-env)"
# Needs x86-64 Linux, python3 with pip or venv, a C compiler. 651 MiB are downloaded and 1.2 GiB stay on the disk; a
# second call finds them. Runs from any directory.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/pip-install.sh"

print_env=false
if [[ "${1:-}" == --print-env ]]; then print_env=true; shift; fi
cache=$(realpath -m "${1:-${XDG_CACHE_HOME:-$HOME/.cache}/harness-cuda}")
toolchain=$cache/toolchain
home=$toolchain/nvidia/cu13

# The linker asks for libX.so; the wheels hold libX.so.N.
link_libraries() {
    ln -s lib lib64
    local library
    for library in lib/lib*.so.*; do
        ln -sf "$(basename "$library")" "${library%%.so.*}.so"
    done
}

# libcuda comes with the driver. To link, and to start without a driver, a library will do in which every function
# returns CUDA_ERROR_NO_DEVICE (100). It must not be on the library path of a machine that has a GPU.
make_driver_stub() {
    mkdir -p lib/stubs
    {
        grep -ohE '\bcu[A-Z][A-Za-z0-9_]*\s*\(' include/cuda.h | tr -d '( '
        grep -ohE '#define cu[A-Z][A-Za-z0-9_]+ +cu[A-Z][A-Za-z0-9_]+' include/cuda.h | awk '{ print $3 }'
    } | sort -u | awk '{ print "int " $1 "(void) { return 100; }" }' >lib/stubs/libcuda.c
    "${CC:-cc}" -w -shared -fPIC -fno-builtin -Wl,-soname,libcuda.so.1 -o lib/stubs/libcuda.so lib/stubs/libcuda.c
    ln -sf libcuda.so lib/stubs/libcuda.so.1
}

set_up() {
    [[ "$(uname -s) $(uname -m)" == "Linux x86_64" ]] || {
        echo "cuda-toolchain.sh: the wheels listed are for x86-64 Linux, this is $(uname -s) $(uname -m):" \
            "install a CUDA toolkit and set CUDA_HOME" >&2
        return 1
    }
    mkdir -p "$cache"
    partial=$(mktemp -d "$cache/toolchain.XXXXXX")
    trap 'rm -rf "$partial"' EXIT
    install_wheels "$here/cuda-requirements.txt" "$partial"
    (cd "$partial/nvidia/cu13" && link_libraries && make_driver_stub)
    cp "$here/cuda-requirements.txt" "$partial/installed.txt"
    chmod 755 "$partial"
    rm -rf "$toolchain"
    mv "$partial" "$toolchain"
}

if ! cmp -s "$here/cuda-requirements.txt" "$toolchain/installed.txt"; then
    echo "cuda-toolchain.sh: CUDA 13.0 into $toolchain" >&2
    set_up
fi

if $print_env; then
    printf 'export CUDA_HOME=%q CUDA_PATH=%q\n' "$home" "$home"
    printf 'export PATH=%q:"$PATH"\n' "$home/bin"
    printf 'export LD_LIBRARY_PATH=%q"${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"\n' "$home/lib"
fi
