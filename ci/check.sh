#!/usr/bin/env bash
# What every change must pass: format, lints, documentation, tests. Runs from any directory.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

step() {
    echo "+ $*"
    "$@"
}

step cargo fmt --all --check
step cargo clippy --locked --all-targets -- -D warnings
step cargo clippy --locked --all-targets --no-default-features -- -D warnings
RUSTDOCFLAGS="-D rustdoc::broken_intra_doc_links" step cargo doc --locked --no-deps
step cargo test
