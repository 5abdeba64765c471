#!/usr/bin/env bash
# Make the environment if it is missing, then run the reduced study: four methods on the toy sums with three seeds, at the best
# learning rate and a tenth of it, by two workers of one thread each. At most half an hour on two cores; started again after an
# interruption, it goes on where it was. Arguments are passed on, e.g. scripts/study.sh seeds=[0]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh
unset PYTHONDONTWRITEBYTECODE

.venv/bin/effopd study reduced --workers 2 "$@"
