#!/usr/bin/env bash
# Builds the library that the feature `flash-attn` links: FlashAttention-2's forward and backward for bf16 and packed
# sequences, head size 128 (causal and full) and 72..96 (full), behind the C interface of
# harness/src/model/gpu/flash_shim.cu. Sources: PyPI's flash-attn 2.8.3.post2 and nvidia-cutlass 4.2.0.0 (both BSD-3, see
# ci/THIRD-PARTY.md), each checked against its SHA-256. Nothing of it enters the repository.
#   ci/flash-attention.sh [DIR]    DIR/flash-attention/sm_XX/libharness_flash_attention.a; DIR as for
#                                  ci/cuda-toolchain.sh, XX from CUDA_COMPUTE_CAP, else of the card, else 90
# Needs nvcc on the PATH, python3 with pip or venv, bash, ar. HARNESS_JOBS compilers run at a time
# (default: one a core). A second call finds the library. Runs from any directory.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$here/pip-install.sh"

root=$(realpath -m "${1:-${XDG_CACHE_HOME:-$HOME/.cache}/harness-cuda}")/flash-attention
gpu=$here/../harness/src/model/gpu
sdist=https://files.pythonhosted.org/packages/6c/b1/b77625e3d11260d2bd6a4fc249a4be9a3da97ff848e2222e810c4f0e0211/flash_attn-2.8.3.post2.tar.gz
sdist_sha256=d0f9f0b08a986cdeadbffcf5ec8b3a8f514366c68ad1853d3ab061bc83cc340b
kernels=(
    flash_bwd_hdim128_bf16_causal_sm80 flash_bwd_hdim128_bf16_sm80 flash_bwd_hdim96_bf16_sm80
    flash_fwd_hdim128_bf16_causal_sm80 flash_fwd_hdim128_bf16_sm80 flash_fwd_hdim96_bf16_sm80
)

stop() {
    echo "flash-attention.sh: $*" >&2
    exit 1
}

# As build.rs of the crate: 90 for compute capability 9.0.
compute_cap() {
    local cap=${CUDA_COMPUTE_CAP:-}
    [[ -n $cap ]] || cap=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -n 1) || true
    cap=${cap:-90} cap=${cap#sm_} cap=${cap//./} cap=${cap%[af]}
    [[ $cap =~ ^[0-9]{2,3}$ && $cap -ge 80 ]] ||
        stop "FlashAttention-2 needs compute capability 8.0 or newer, CUDA_COMPUTE_CAP says '$cap'"
    echo "$cap"
}

# Downloads the package, checks it, and unpacks its kernels and its licence.
fetch_flash_attention() {
    command -v python3 >/dev/null || stop "python3 is needed to download the sources"
    python3 - "$sdist" "$sdist_sha256" "$1" <<'PYTHON'
import hashlib, io, pathlib, sys, tarfile, urllib.request
url, sha256, target = sys.argv[1:]
data = urllib.request.urlopen(url, timeout=180).read()
found = hashlib.sha256(data).hexdigest()
if found != sha256:
    sys.exit(f"flash-attention.sh: {url} has SHA-256 {found}, expected {sha256}")
with tarfile.open(fileobj=io.BytesIO(data)) as archive:
    for member in archive.getmembers():
        parts = pathlib.PurePosixPath(member.name).parts[1:]
        if member.isfile() and (parts == ("LICENSE",) or parts[:3] == ("csrc", "flash_attn", "src")):
            file = pathlib.Path(target, parts[-1])
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(archive.extractfile(member).read())
PYTHON
}

fetch_sources() {
    local partial=$sources.partial
    rm -rf "$partial"
    fetch_flash_attention "$partial/flash_attn"
    install_wheels "$here/flash-attention-requirements.txt" "$partial/cutlass"
    rm -rf "$sources"
    mv "$partial" "$sources"
}

# The switches leave out what the harness does not use; their names are the package's (static_switch.h). Head size 128
# fills its kernel, 80 does not fill that of 96. As with candle's kernels, what is built for 8.x runs on newer cards too.
compile() {
    local name=$1 source=$sources/flash_attn/$1.cu only=() code=sm_$cap
    [[ $cap -lt 90 ]] && code=[sm_$cap,compute_$cap]
    [[ $name == flash_shim ]] && source=$gpu/flash_shim.cu
    [[ $name == *hdim128* ]] && only=(-DFLASHATTENTION_DISABLE_UNEVEN_K)
    "$nvcc" -c -o "$objects/$name.o" "$source" -gencode "arch=compute_$cap,code=$code" -std=c++17 -O3 \
        -U__CUDA_NO_HALF_OPERATORS__ -U__CUDA_NO_HALF_CONVERSIONS__ -U__CUDA_NO_HALF2_OPERATORS__ \
        -U__CUDA_NO_BFLOAT16_CONVERSIONS__ --expt-relaxed-constexpr --expt-extended-lambda --use_fast_math \
        -DFLASHATTENTION_DISABLE_DROPOUT -DFLASHATTENTION_DISABLE_ALIBI -DFLASHATTENTION_DISABLE_SOFTCAP \
        -DFLASHATTENTION_DISABLE_LOCAL "${only[@]}" -Xcompiler -fPIC \
        -I"$sources/flash_attn" -I"$sources/cutlass/cutlass_library/source/include" -I"$gpu/flash_torch" \
        >"$objects/$name.log" 2>&1 || { head -n 20 "$objects/$name.log" >&2; return 1; }
}

build() {
    rm -rf "$objects"
    mkdir -p "$objects"
    inputs >"$objects/inputs"
    export -f compile
    export nvcc cap sources objects gpu
    printf '%s\n' "${kernels[@]}" flash_shim |
        xargs -P "${HARNESS_JOBS:-$(nproc)}" -I NAME bash -c 'compile NAME' || stop "nvcc failed, see above"
    ar rcs "$objects/$library" "$objects"/*.o
    mkdir -p "$out"
    mv "$objects/$library" "$objects/inputs" "$out/"
    rm -rf "$objects"
}

# What the library was made of: another compiler or another interface makes another library.
inputs() {
    "$nvcc" --version | tail -n 1
    declare -f compile
    echo "${kernels[*]} $sdist_sha256"
    cat "$here/flash-attention-requirements.txt"
    (cd "$gpu" && cat flash_shim.cu flash_torch/*/*/*.h flash_torch/*/*/*/*.cuh)
}

nvcc=$(command -v nvcc) || stop "no nvcc on the PATH. Where no CUDA toolkit is installed:" \
    'eval "$(ci/cuda-toolchain.sh --print-env)"'
cap=$(compute_cap)
sources=$root/flash-attn-2.8.3.post2
out=$root/sm_$cap
objects=$out.partial
library=libharness_flash_attention.a

if [[ ! -f $out/$library ]] || ! inputs | cmp -s - "$out/inputs"; then
    echo "flash-attention.sh: $out/$library" >&2
    [[ -d $sources ]] || fetch_sources
    build
fi
