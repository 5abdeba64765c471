#!/usr/bin/env bash
# Make the environment if it is missing, then let faults of every kind hit toy runs at random moments: processes killed and stopped,
# checkpoints damaged, the disk full, gradients not finite. Every run must finish as the undisturbed one does. Arguments:
# --faults 30 --seed 0. A quarter of an hour on two cores; as root also with a full disk.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh
unset PYTHONDONTWRITEBYTECODE
export PATH="$PWD/.venv/bin:$PATH"

exec python scripts/chaos/chaos.py "$@"
