#!/usr/bin/env bash
# Make the environment in .venv, or bring it up to date. Safe to interrupt and to run again: a finished step is skipped.
# Needs Python 3.11 or newer with venv, a C++ compiler, and the package index.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
unset PYTHONDONTWRITEBYTECODE   # compiled bytecode halves the start-up of vLLM

# Model-written code runs inside bubblewrap; everything else works without it. Outside the stamp: the machine may be new
# where the folder is old.
if ! command -v bwrap > /dev/null; then
    if [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
        install=(env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends bubblewrap)
        "${install[@]}" > /dev/null 2>&1 || { apt-get update -qq && "${install[@]}"; } > /dev/null 2>&1 ||
            echo "bubblewrap could not be installed; code rewards need it: apt-get install bubblewrap" >&2
    else
        echo "bubblewrap is missing; code rewards need it: apt-get install bubblewrap" >&2
    fi
fi

venv="$PWD/.venv"
requirements=docker/requirements-cpu.txt
stamp="$venv/.effopd-setup"
wanted=$(cat "$requirements" pyproject.toml scripts/setup.sh | sha256sum)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
    exit 0
fi

# Two set-ups at once would tread on each other.
exec 9>".venv.lock"
flock 9

echo "setting up $venv"
[ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
[ -x "$venv/bin/uv" ] || "$venv/bin/python" -m pip install --quiet "uv>=0.9"

find_links=()
for folder in ${PIP_FIND_LINKS:-}; do find_links+=(--find-links "$folder"); done
# The list is complete, so nothing is resolved: --no-deps also keeps out the CUDA packages that vLLM asks for by name.
"$venv/bin/uv" pip install --quiet --python "$venv/bin/python" --no-deps "${find_links[@]}" -r "$requirements"
"$venv/bin/uv" pip install --quiet --python "$venv/bin/python" --no-deps --editable .

echo "compiling bytecode"
"$venv/bin/python" -m compileall -q -j 0 "$venv"/lib/python*/site-packages > /dev/null || true   # a few files are templates

echo "$wanted" > "$stamp"
echo "done"
