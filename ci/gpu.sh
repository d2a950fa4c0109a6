#!/usr/bin/env bash
# What only a machine with an NVIDIA card can tell, kept in results/gpu/CARD-DATE/ (UTC).
#   ci/gpu.sh [--dry-run] [PART...]    the parts named, or all; --dry-run prints the commands and runs none
# Parts:
#   tests         the tests of the card, feature cuda
#   flash-tests   the same with the feature flash-attn: FlashAttention-2 against the project's own attention
#   reproduce     the tiny study on the processor, and twice on the card: their tables, the card's two compared byte by byte
#   bench         one training step at 7B with random weights (tests/qwen2_5_vl_7b), bf16, the project's own attention,
#                 one corrupted picture per group and one per response: a line of JSON each
#   flash-bench   the same with FlashAttention-2
#   steps         two whole steps of DAPO, of VPPO and of VPPO with one corrupted picture per group at 7B with random
#                 weights, FlashAttention-2, pictures and all: their metrics and times (80 GiB of disk, as much of memory)
# Every part begins anew and replaces what it left on the same day. Every command has a time limit and a log; one that fails
# ends its part, not the others. PART/commands.txt says what was run and how it ended; the exit code is 1 if anything failed.
# Needs what README, "CUDA", says; where nvcc is missing it comes from ci/cuda-toolchain.sh. Runs from any directory.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

all_parts=(tests flash-tests reproduce bench flash-bench steps)
harness=target/debug/harness # the profile of the tests; release gives the same bytes

stop() {
    echo "gpu.sh: $*" >&2
    exit 2
}

# What nvidia-smi says of the first card.
card() {
    nvidia-smi --query-gpu="$1" --format=csv,noheader,nounits 2>/dev/null | head -n 1
}

# run NAME MINUTES COMMAND...: its output into NAME.log, how it ended into commands.txt.
run() {
    local name=$1 minutes=$2 code=0 began=$SECONDS outcome=ok
    shift 2
    if $dry_run; then
        echo "    timeout ${minutes}m $*"
        return
    fi
    echo "+ $*"
    timeout --kill-after=1m "${minutes}m" "$@" >"$folder/$name.log" 2>&1 || code=$?
    case $code in
        0) ;;
        124 | 137) outcome="STOPPED after $minutes min" ;;
        *) outcome="FAILED with $code" ;;
    esac
    echo "$outcome, $((SECONDS - began)) s: $*" | tee -a "$folder/commands.txt"
    return "$code"
}

build() {
    run build 60 cargo build --locked --features "$1"
}

# Without a card these tests pass and say "skipped"; HARNESS_NEEDS_CARD makes them fail.
card_tests() {
    run build 60 cargo test --locked --features "$1" --no-run || return
    run units 10 cargo test --locked --features "$1" --lib -- gpu:: --nocapture --test-threads=1 || return
    run card 60 env HARNESS_NEEDS_CARD=1 cargo test --locked --features "$1" --test tests -- card:: --nocapture
}

reproduce_on() {
    local name=$1 device=$2 out=runs/gpu/$1
    $dry_run || rm -rf "$out"
    run "$name" 120 "$harness" reproduce --scale tiny --device "$device" --out "$out" || return
    $dry_run || cp -r "$out/results/tiny" "$folder/$name"
}

step_at_7b() {
    local attention=$1 corrupted=$2
    run "$corrupted" 45 "$harness" bench --model tests/qwen2_5_vl_7b --prompts 16 --group 8 --grid 32x32 \
        --prompt-tokens 128 --response-tokens 512 --device cuda --dtype bf16 --recompute --attention "$attention" \
        --corrupted "$corrupted" "${phases[@]}" --json || return
    $dry_run || tail -n 1 "$folder/$corrupted.log" >"$folder/$corrupted.json"
}

steps_at_7b() {
    local failed=0 corrupted
    for corrupted in group response; do step_at_7b "$1" "$corrupted" || failed=1; done
    return "$failed"
}

part_tests() { card_tests cuda; }

part_flash_tests() {
    run library 60 bash ci/flash-attention.sh && card_tests flash-attn
}

part_reproduce() {
    build cuda || return
    reproduce_on cuda-1 cuda && reproduce_on cuda-2 cuda || return
    run same-bytes 1 diff -r "$folder/cuda-1" "$folder/cuda-2"
    local same=$?
    reproduce_on cpu cpu && return "$same"
}

part_bench() {
    build cuda && steps_at_7b own
}

part_flash_bench() {
    run library 60 bash ci/flash-attention.sh && build flash-attn && steps_at_7b flash
}

# A checkpoint directory without weights: the sizes of 7B with the tokenizer of a small fixture, whose ids take the place of
# the model's, and 32 questions on the fixture's pictures.
bare_7b() {
    local from=tests/golden/parity/qwen2_5_vl_nested to=$1 ids=(151643 320 151645 322 151652 323 151653 324 151655 326 151656 327)
    rm -rf "$to"
    mkdir -p "$to"
    cp "$from"/{chat_template.jinja,generation_config.json,processor_config.json,tokenizer.json,tokenizer_config.json} "$to"
    cp -r "$from/images" "$to"
    local script="" i
    for ((i = 0; i < ${#ids[@]}; i += 2)); do script+="s/: ${ids[i]},/: ${ids[i + 1]},/;"; done
    sed "$script" tests/qwen2_5_vl_7b/config.json >"$to/config.json"
    for i in {1..32}; do
        echo "{\"problem\": \"<image>How much is $i + 1?\", \"images\": [\"images/square.png\"], \"answer\": \"$((i + 1))\"}"
    done >"$to/questions.jsonl"
}

# Nothing that random weights say is right: the filter of groups must let all pass.
step_of() {
    local name=$1 variant=$2 out=runs/gpu/$1
    shift 2
    $dry_run || rm -rf "$out"
    run "$name" 30 "$harness" train --scale 7b --device cuda --model runs/gpu/bare-7b --untrained \
        --data runs/gpu/bare-7b/questions.jsonl --variant "$variant" --out "$out" --set train.steps=2 \
        --set train.prompts_per_step=16 --set train.mini_batch_prompts=16 --set train.refill_prompts=16 \
        --set train.checkpoint_every=1000 --set sampling.max_new_tokens=512 \
        --set eval.protocol=own --set algorithm.group_filter.low=-1 "$@" || return
    $dry_run || cat "$out"/runs/7b/train/*/*/metrics.jsonl "$out"/runs/7b/train/*/*/timing.jsonl >"$folder/$name.jsonl"
    $dry_run || rm -rf "$out"
}

part_steps() {
    local failed=0
    run library 60 bash ci/flash-attention.sh && build flash-attn || return
    $dry_run || bare_7b runs/gpu/bare-7b
    step_of dapo dapo || failed=1
    step_of vppo vppo || failed=1
    step_of vppo-group vppo --set algorithm.perception.corruption.scope=group || failed=1
    return "$failed"
}

# The toolkit, and the capability of the card that is there.
set_up() {
    PATH=$PATH:${CUDA_HOME:-/usr/local/cuda}/bin
    if ! command -v nvcc >/dev/null; then
        local exports
        exports=$(bash ci/cuda-toolchain.sh --print-env)
        eval "$exports"
    fi
    local toolkit cap
    toolkit=$(dirname "$(dirname "$(command -v nvcc)")") cap=$(card compute_cap)
    export LD_LIBRARY_PATH=$toolkit/lib64${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
    export CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP:-${cap//./}} CUDAFORGE_THREADS=${CUDAFORGE_THREADS:-$(nproc)}
}

describe_machine() {
    echo "card: $(card name), $(card memory.total) MiB"
    echo "driver: $(card driver_version)"
    echo "compute capability: $(card compute_cap)"
    echo "nvcc: $(nvcc --version | tail -n 1)"
    echo "processor: $(grep -m 1 'model name' /proc/cpuinfo | cut -d: -f2-), $(nproc) threads"
    echo "rustc: $(rustc --version)"
    echo "commit: $(git rev-parse HEAD)$(git diff --quiet HEAD || echo ', with changes')"
    echo "begun: $(date -u +%FT%TZ)"
    echo "command: ci/gpu.sh ${parts[*]}"
}

dry_run=false
if [[ "${1:-}" == --dry-run ]]; then dry_run=true; shift; fi
parts=("${@:-${all_parts[@]}}")
for part in "${parts[@]}"; do
    [[ " ${all_parts[*]} " == *" $part "* ]] || stop "there is no part '$part'; the parts are: ${all_parts[*]}"
done

if $dry_run; then
    name=CARD memory=0
else
    name=$(card name) || stop "nvidia-smi shows no card; --dry-run prints the commands"
    memory=$(card memory.total)
fi
name=${name#NVIDIA }
out=results/gpu/${name// /-}-$(date -u +%F)
# An update at 7B holds about 100 GiB: weights, sums of gradients in f32, state of AdamW.
phases=()
if ((memory > 0 && memory < 120000)); then
    echo "gpu.sh: $memory MiB do not hold an update at 7B: the benches time the other phases"
    phases=(--phases "rollout,score,corrupt")
fi

if ! $dry_run; then
    set_up
    mkdir -p "$out"
    describe_machine | tee -a "$out/machine.txt"
fi
failed=()
for part in "${parts[@]}"; do
    folder=$out/$part
    echo "== $part: $folder"
    if ! $dry_run; then
        rm -rf "$folder"
        mkdir -p "$folder"
    fi
    "part_${part//-/_}" || failed+=("$part")
done
$dry_run && exit
if ((${#failed[@]})); then
    echo "gpu.sh: failed: ${failed[*]}; the logs are in $out"
    exit 1
fi
echo "gpu.sh: all of it went well: ${parts[*]}; see $out"
