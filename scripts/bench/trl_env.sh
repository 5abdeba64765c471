#!/usr/bin/env bash
# Make the environment that against_trl.py measures TRL in: .venv-trl, beside .venv and with the same torch and transformers.
# Safe to run again. Needs what scripts/setup.sh needs, and .venv, whose uv it uses.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
unset PYTHONDONTWRITEBYTECODE

uv=.venv/bin/uv
python=.venv-trl/bin/python
pins=()
for name in torch transformers numpy datasets; do
    pins+=("$(grep -m1 "^$name==" docker/requirements-cpu.txt)")
done

find_links=()
for folder in ${PIP_FIND_LINKS:-}; do find_links+=(--find-links "$folder"); done
[ -x "$python" ] || "$uv" venv --quiet --python .venv/bin/python .venv-trl
"$uv" pip install --quiet --python "$python" "${find_links[@]}" "trl==1.16.*" "${pins[@]}"
"$python" -m compileall -q -j 0 .venv-trl/lib/python*/site-packages > /dev/null || true   # a few files are templates
"$python" -c 'import trl; print("trl", trl.__version__, "in .venv-trl")'
