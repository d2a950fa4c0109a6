# Read by the scripts beside it (`source`). install_wheels REQUIREMENTS DIR: puts wheels into DIR, each checked against
# the SHA-256 in the file of requirements; nothing is built or executed. The index is the one pip is configured for.

install_wheels() {
    local requirements=$1 target=$2 python=python3
    command -v python3 >/dev/null || {
        echo "$(basename "$0"): python3 with pip is needed to download from PyPI; install it, or a CUDA toolkit" >&2
        return 1
    }
    if ! python3 -m pip --version >/dev/null 2>&1; then
        python3 -m venv "$target/.venv" || {
            echo "$(basename "$0"): python3 has neither pip nor venv; install python3-pip or python3-venv" >&2
            return 1
        }
        python=$target/.venv/bin/python
    fi
    PIP_ROOT_USER_ACTION=ignore "$python" -m pip --quiet --disable-pip-version-check install --no-deps --no-compile --only-binary :all: \
        --require-hashes --requirement "$requirements" --target "$target"
    rm -rf "$target/.venv"
}
