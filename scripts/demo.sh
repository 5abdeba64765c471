#!/usr/bin/env bash
# Make the environment if it is missing, then watch a student catch up with its teacher four times, from the same weights,
# with the same learning rate and seed: plain OPD, EffOPD as printed, EffOPD gated by the reverse KL, EffOPD as we set it. Real
# Ray, vLLM and DeepSpeed, on two cores. Arguments are overrides for all runs, e.g. scripts/demo.sh seed=1. An earlier demo is kept beside the new one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh
unset PYTHONDONTWRITEBYTECODE

if [ -e runs/demo ]; then
    earlier="runs/demo_until_$(date +%Y-%m-%d_%H-%M-%S)"
    mv runs/demo "$earlier"
    echo "the earlier demo is now in $earlier"
fi
.venv/bin/effopd train -m experiment=demo_opd,demo_paper,demo_kl_gated,demo_effopd 'output_dir=runs/demo/${name}' "$@"
.venv/bin/effopd compare runs/demo/demo_opd runs/demo/demo_paper runs/demo/demo_kl_gated runs/demo/demo_effopd --output runs/demo
echo "the table and its figure are in $PWD/runs/demo: comparison.md, comparison.png"
