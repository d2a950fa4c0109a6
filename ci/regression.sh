#!/usr/bin/env bash
# Runs the smoke study from nothing and compares its tables with those in tests/regression/: to the byte on the
# kind of machine that wrote them, else every arm's average within 4 combined standard errors.
#   ci/regression.sh            compares
#   ci/regression.sh --update   writes the tables of this machine as the new snapshot
# Runs from any directory; needs bash, cargo and the POSIX tools.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

snapshot=tests/regression
tables=(main.csv main.items.csv)

# Machines with the same line give the same bytes.
machine() {
    local features=""
    if [[ "$(uname -m)" == x86_64 && -r /proc/cpuinfo ]]; then
        for feature in avx2 fma; do
            if grep -qw "$feature" /proc/cpuinfo; then features+=" $feature"; fi
        done
    fi
    echo "$(uname -s) $(uname -m)$features"
}

# "arm value standard-error" per line of a table's averages; the 95 % interval is 2 * 1.96 standard errors wide.
averages() {
    sed 's/"[^"]*"/label/g' "$1" |
        awk -F, '$3 == "Avg" && $4 == "measured" { print $1, $5, ($7 - $6) / 3.92 }' | sort
}

# Fails where an arm is missing on one side or its averages are too far apart.
compare_statistically() {
    { averages "$1" | sed 's/^/old /'; averages "$2" | sed 's/^/new /'; } | awk '
        $1 == "old" { value[$2] = $3; error[$2] = $4; next }
        !($2 in value) { print "  " $2 ": not in the snapshot"; bad = 1; next }
        {
            distance = $3 - value[$2]; if (distance < 0) distance = -distance
            bound = 4 * sqrt($4 * $4 + error[$2] * error[$2])
            verdict = distance <= bound ? "ok" : "TOO FAR"
            printf "  %s: %.2f, snapshot %.2f, at most %.2f apart: %s\n", $2, $3, value[$2], bound, verdict
            if (distance > bound) bad = 1
            delete value[$2]; seen++
        }
        END {
            for (arm in value) { print "  " arm ": in the snapshot only"; bad = 1 }
            exit bad || !seen
        }'
}

out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
cargo run --quiet --locked -- reproduce --scale smoke --seeds 1 --out "$out" >"$out/log" 2>&1 ||
    { cat "$out/log"; exit 1; }
made=$out/results/smoke

if [[ "${1:-}" == --update ]]; then
    mkdir -p "$snapshot"
    for table in "${tables[@]}"; do cp "$made/$table" "$snapshot/$table"; done
    machine >"$snapshot/machine.txt"
    echo "regression: $snapshot written on: $(machine)"
    exit
fi

if [[ "$(machine)" == "$(cat "$snapshot/machine.txt")" ]]; then
    for table in "${tables[@]}"; do
        if ! difference=$(diff "$snapshot/$table" "$made/$table"); then
            echo "regression: $table is not the snapshot's (exact comparison, $(machine)):"
            head -n 20 <<<"$difference"
            echo "if the change is meant: ci/regression.sh --update"
            exit 1
        fi
    done
    echo "regression: the tables are the snapshot's to the byte ($(machine))"
else
    echo "regression: this is $(machine), the snapshot is of $(cat "$snapshot/machine.txt"): statistical comparison"
    compare_statistically "$snapshot/main.csv" "$made/main.csv" ||
        { echo "regression: beyond 4 combined standard errors of the snapshot"; exit 1; }
fi
