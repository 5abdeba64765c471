#!/usr/bin/env bash
# Make the environment if it is missing, then watch a student catch up with its teacher three times, from the same weights,
# with the same learning rate and seed: plain OPD, EffOPD as printed, EffOPD gated by the reverse KL. Real Ray, vLLM and
# DeepSpeed, on two cores. Arguments are overrides for all three runs, e.g. scripts/demo.sh seed=1
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh
unset PYTHONDONTWRITEBYTECODE

rm -rf runs/demo
.venv/bin/effopd train -m experiment=demo_opd,demo_paper,demo_effopd 'output_dir=runs/demo/${name}' "$@"
.venv/bin/effopd compare runs/demo/demo_opd runs/demo/demo_paper runs/demo/demo_effopd --output runs/demo
