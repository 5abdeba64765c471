"""`effopd plan`: from composed settings to what is printed and the exit code."""

import sys
from collections.abc import Mapping

from effopd.config.require import require
from effopd.config.schema import Device, RunConfig, Runtime
from effopd.plan.hardware import Cluster
from effopd.plan.remedies import smallest_change
from effopd.plan.report import json_report, make_plan, models_of, text_report

DOES_NOT_FIT = 2


def print_plan(
    config: RunConfig, cluster: Cluster, *, shapes: Mapping[str, str], mean_response: int | None, as_json: bool
) -> int:
    """Print the plan and return 0 when it fits, 2 when it does not.

    Raises ConfigError when a model's shape is unknown,
    and for runs that have no GPU for every actor.
    """
    device, runtime = config.cluster.device, config.cluster.runtime
    require(device is not Device.cpu, "cluster.device", device, "a plan is one of GPUs", "set cluster.device=auto")
    require(runtime is Runtime.ray, "cluster.runtime", runtime, "one process shares one GPU", "choose cluster=one_node")
    models = models_of(config, shapes)
    plan = make_plan(config, cluster, models)
    change = None if plan.fits else smallest_change(config, cluster, models)
    if as_json:
        sys.stdout.write(json_report(config, plan, mean_response, change) + "\n")
    else:
        sys.stdout.write(text_report(config, plan, mean_response) + "\n\n")
        sys.stdout.write("fits\n" if plan.fits else f"{refusal(plan.problems, change)}\n")
    return 0 if plan.fits else DOES_NOT_FIT


def refusal(problems: tuple[str, ...], change: str | None) -> str:
    """Return one line: why a plan does not fit, and what does."""
    remedy = "no change of these settings fits" if change is None else f"fits with {change}"
    return f"does not fit: {'; '.join(problems)}; {remedy}"
