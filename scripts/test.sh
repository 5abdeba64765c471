#!/usr/bin/env bash
# Make the environment if it is missing, then run every check and every test. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh
unset PYTHONDONTWRITEBYTECODE
export PATH="$PWD/.venv/bin:$PATH"

ruff check .
ruff format --check .
lint-imports
pyright
hadolint docker/Dockerfile.*
# A file stays together, for its fixtures are engines; the slowest come first.
exec python -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
