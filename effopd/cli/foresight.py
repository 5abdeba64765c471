"""`effopd doctor` and `effopd plan`: what would go wrong with a run, and what it would take."""

import argparse
import sys
from pathlib import Path

from effopd.cli.arguments import Parser, expand_home
from effopd.config.jobs import training_jobs
from effopd.config.register import open_configs
from effopd.plan.command import print_plan
from effopd.plan.hardware import GPUS, Cluster

DOCTOR_DEFAULT = "experiment=toy_effopd"
"""What `effopd doctor` looks at when it is told nothing: all of it is shipped, so only the machine can be wrong."""


def doctor(arguments: list[str]) -> int:
    parser = Parser(
        prog="effopd doctor",
        usage="effopd doctor [options] [group=choice ...] [key=value ...]",
        description="Check installation, models, disk and the rest for the run that these arguments of `effopd train` "
        f"describe (default: {DOCTOR_DEFAULT}). Exit code 0 when nothing is wrong, else 2.",
        allow_abbrev=False,
    )
    parser.add_argument("overrides", nargs="*", help="group=choice or key=value, as for effopd train")
    parser.add_argument("--engines", action="store_true", help="also start samplers and learners, and publish once")
    parser.add_argument("--json", action="store_true", help="print a list of findings as JSON")
    parser.add_argument("-cd", "--config-dir", type=Path, metavar="FOLDER", help="take further YAML files from here")
    options = parser.parse_intermixed_args(arguments)
    overrides = [expand_home(argument) for argument in options.overrides or [DOCTOR_DEFAULT]]
    with open_configs(options.config_dir) as configs:
        (job,) = training_jobs(configs, overrides, False)
    from effopd.doctor.examination import examine  # noqa: PLC0415
    from effopd.doctor.report import write_json, write_text  # noqa: PLC0415
    from effopd.launch import start  # noqa: PLC0415

    findings = examine(job.config, start if options.engines else None)
    is_sound = write_json(findings, sys.stdout) if options.json else write_text(findings, sys.stdout)
    return 0 if is_sound else 2


def plan(arguments: list[str]) -> int:
    parser = Parser(
        prog="effopd plan",
        usage="effopd plan [options] [group=choice ...] [key=value ...]",
        description="Print what a training run takes, before any GPU is booked: bytes per role and GPU, seconds per step, "
        "and the smallest change when it does not fit. Arguments are those of effopd train.",
        epilog="Exit code: 0 it fits, 2 it does not, or a setting is wrong.",
        allow_abbrev=False,
    )
    parser.add_argument("overrides", nargs="*", help="group=choice or key=value, as for effopd train")
    parser.add_argument("--device", default="h100", choices=list(GPUS), help="the GPU (default: h100)")
    parser.add_argument("--nodes", type=int, default=1, metavar="N", help="machines (default: 1)")
    parser.add_argument("--gpus-per-node", type=int, default=8, metavar="N", help="GPUs in each (default: 8)")
    parser.add_argument(
        "--mean-response", type=_positive, metavar="TOKENS", help="mean length of a response, for the seconds"
    )
    parser.add_argument(
        "--shape",
        action="append",
        default=[],
        type=_shape,
        metavar="PATH=LIKE",
        help="the model PATH has the shape of LIKE: a config.json, its folder, or a model that plan knows",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("-cd", "--config-dir", type=Path, metavar="FOLDER", help="take further YAML files from here")
    options = parser.parse_intermixed_args(arguments)
    overrides = [expand_home(argument) for argument in options.overrides]
    cluster = Cluster(gpu=GPUS[options.device], gpus_per_node=options.gpus_per_node, num_nodes=options.nodes)
    with open_configs(options.config_dir) as configs:
        (job,) = training_jobs(configs, overrides, False)
    return print_plan(
        job.config,
        cluster,
        shapes=dict(options.shape),
        mean_response=options.mean_response,
        as_json=options.json,
    )


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no positive whole number")
    return int(text)


def _shape(text: str) -> tuple[str, str]:
    path, equals, like = text.partition("=")
    if not (path and equals and like):
        raise argparse.ArgumentTypeError(f"{text} is not PATH=LIKE")
    return path, like
