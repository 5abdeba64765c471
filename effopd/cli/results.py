"""`effopd study`, `compare` and `export`: what is made of runs."""

import argparse
import sys
from pathlib import Path

from effopd.checkpoints.manifest import require_checkpoint
from effopd.cli.arguments import Parser, expand_home, report
from effopd.config.register import open_configs
from effopd.config.study import STUDY_KEYS, read_study, study_names
from effopd.errors import ConfigError
from effopd.run_folders import find_runs


def study(arguments: list[str]) -> int:
    parser = Parser(
        prog="effopd study",
        usage="effopd study <study> [options] [key=value ...]",
        description="Run every method with every learning rate and seed on every task, and report what each needs to a "
        "common target: study.json, study.md, study.png. What is finished is skipped, what was interrupted is resumed.",
    )
    parser.add_argument("study", help=f"a YAML file, or one of {', '.join(study_names())}")
    parser.add_argument(
        "overrides", nargs="*", help=f"a setting of the study ({', '.join(STUDY_KEYS)}), or of all of its runs"
    )
    parser.add_argument("--output", type=Path, help="folder of runs and report; default: runs/studies/<name>")
    parser.add_argument("--workers", type=_num_workers, default=1, help="processes, which share the cores; default: 1")
    parser.add_argument("--report", action="store_true", help="run nothing; report on the runs that are finished")
    options = parser.parse_intermixed_args(arguments)
    with open_configs() as configs:
        study = read_study(configs, options.study, [expand_home(argument) for argument in options.overrides])
    output = options.output or Path("runs", "studies", study.settings.name)
    from effopd.study.execute import report_study, run_study  # noqa: PLC0415

    try:
        failures = [] if options.report else run_study(study, output, options.workers, report)
    except KeyboardInterrupt:
        report("interrupted; the same command goes on from here")
        raise
    sys.stdout.write(report_study(study, output, failures))
    report(f"report, runs and their logs are in {output}")
    return 1 if failures else 0


def _num_workers(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number of processes, 1 or more")
    return int(text)


def compare(arguments: list[str]) -> int:
    parser = Parser(
        prog="effopd compare",
        description="Compare runs: steps, tokens, calls and seconds to a target score. Runs that differ in their seed "
        "alone are averaged.",
    )
    parser.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="run folders, or folders of runs (in the order of their names)",
    )
    parser.add_argument(
        "--target", default="auto", type=_target, help="score to reach, in [0, 1]; auto: where the baseline ended"
    )
    parser.add_argument(
        "--baseline",
        metavar="NAME",
        help="experiment or run folder that the others are held against; default: the first run that is given, in a folder of "
        "runs the one without extrapolation",
    )
    parser.add_argument("--output", required=True, type=Path, help="folder for tables and figures")
    options = parser.parse_args(arguments)
    find_runs(options.runs)  # a wrong folder is said before anything loads
    from effopd.compare import compare_runs  # noqa: PLC0415

    compare_runs(options.runs, options.target, options.output, options.baseline)
    return 0


def _target(text: str) -> float | None:
    if text == "auto":
        return None
    try:
        target = float(text)
    except ValueError:
        target = -1.0
    if not 0 <= target <= 1:
        raise argparse.ArgumentTypeError(f"{text} is neither auto nor a score in [0, 1]")
    return target


def export(arguments: list[str]) -> int:
    parser = Parser(prog="effopd export", description="Write a checkpoint of a run as a Hugging Face model folder.")
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder")
    parser.add_argument("--output", required=True, type=Path, help="model folder to write")
    parser.add_argument("--checkpoint", default="last", type=_checkpoint, help="last, best or a step (default: last)")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"], help="default: bfloat16")
    options = parser.parse_args(arguments)
    _require_run(options.run)
    require_checkpoint(options.run, options.checkpoint)
    from effopd.export import export_run  # noqa: PLC0415

    export_run(options.run, options.output, options.checkpoint, options.dtype)
    sys.stdout.write(f"the model is in {options.output}\n")
    return 0


def _checkpoint(text: str) -> str:
    if text not in ("last", "best") and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is none of last, best and a step number")
    return text


def _require_run(run: Path) -> None:
    if not (run / "config.yaml").is_file():
        what = "no config.yaml in this folder" if run.is_dir() else "no such folder"
        raise ConfigError(f"{run}: {what}; give a run folder, such as runs/<name>/<time>")
