"""The `effopd` command: `train`, `eval`, `doctor`, `plan`, `study`, `compare`, `export` and `completion`.

Whatever a person can get wrong on a command line is said in one line per mistake on standard error, before torch, Ray or
vLLM are imported. Exit codes: 0 done; 2 a wrong setting or data file, and a plan that does not fit; 1 any other error of
ours, and any job of a sweep that fails, which ends the sweep; 130 interrupted. Errors that nobody foresaw keep their
traceback.
"""

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import effopd
from effopd.checkpoints.manifest import require_checkpoint
from effopd.config.check import needs_teacher
from effopd.config.completion import BASH, candidates
from effopd.config.help import explained, overview
from effopd.config.jobs import Job, checked_overrides, evaluation_jobs, training_jobs
from effopd.config.keys import MISSING, nearest
from effopd.config.register import Configs, open_configs, to_yaml
from effopd.config.schema import DebugMode, RunConfig
from effopd.config.study import STUDY_KEYS, read_study, study_names
from effopd.errors import ConfigError, DataError, EffOPDError
from effopd.plan.command import print_plan
from effopd.plan.hardware import GPUS, Cluster
from effopd.run_folders import find_runs
from effopd.start_checks import require_folder, require_start, run_folder
from effopd.termination import Terminated

USAGE = """usage: effopd <command> [arguments]

commands:
  train       train a student:              effopd train experiment=toy_effopd
  eval        score a model:                effopd eval experiment=toy_opd model.path=<folder>
  plan        memory and time of a run:     effopd plan experiment=qwen3_4b_grpo --device h100
  study       a grid of runs:               effopd study reduced --workers 2
  compare     tables and figures of runs:   effopd compare <run> <run> --output <folder>
  export      a model folder from a run:    effopd export <run> --output <folder>
  doctor      what would go wrong:          effopd doctor experiment=toy_effopd
  completion  tab completion:               eval "$(effopd completion bash)"

`effopd <command> --help` says more.
"""


DOCTOR_DEFAULT = "experiment=toy_effopd"
"""What `effopd doctor` looks at when it is told nothing: all of it is shipped, so only the machine can be wrong."""


class _Parser(argparse.ArgumentParser):
    """Reports a wrong argument as every other mistake is reported, not with a usage text."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; {self.prog} --help shows the arguments")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. `arguments` default to those of the process."""
    # OpenMP reads this once, when torch loads. Threads that spin while they wait make engines which share cores up to ten
    # times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # No telemetry of anybody's.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    try:
        return _dispatch(list(sys.argv[1:] if arguments is None else arguments))
    except EffOPDError as error:
        _report(str(error))
        return 2 if isinstance(error, ConfigError | DataError) else 1
    except Terminated as ended:
        _report(str(ended))
        return 128 + ended.signal_number
    except KeyboardInterrupt:
        return 130


def _report(message: str) -> None:
    for line in message.splitlines():
        sys.stderr.write(f"effopd: {line}\n")


def _dispatch(arguments: list[str]) -> int:
    command, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if command in ("-h", "--help"):
        sys.stdout.write(USAGE)
    elif command == "--version":
        sys.stdout.write(f"effopd {effopd.__version__}\n")
    elif command in COMMANDS:
        return COMMANDS[command](rest)
    else:
        raise ConfigError(f"{command}{nearest(command, COMMANDS)}: must be one of {', '.join(COMMANDS)}")
    return 0


def _train(arguments: list[str]) -> int:
    def check(config: RunConfig) -> None:
        require_start(config)
        _require_models(config, has_teacher=needs_teacher(config))

    def start(config: RunConfig) -> None:
        # Here, after every check, torch, Ray and vLLM load.
        from effopd.launch import train  # noqa: PLC0415

        train(config)
        folder = run_folder(config)
        if config.debug.mode is DebugMode.none:
            sys.stdout.write(f"the run is in {folder}; effopd export {folder} --output <folder> makes a model of it\n")

    return _run_app("train", "Train a student.", arguments, training_jobs, check, start)


def _evaluate(arguments: list[str]) -> int:
    def check(config: RunConfig) -> None:
        require_folder(config)
        _require_models(config, has_teacher=config.teacher.path != MISSING)

    def start(config: RunConfig) -> None:
        from effopd.launch import evaluate  # noqa: PLC0415

        evaluate(config)

    return _run_app("eval", "Score a model on an evaluation set.", arguments, evaluation_jobs, check, start)


def _require_models(config: RunConfig, *, has_teacher: bool) -> None:
    from effopd.model_folders import require_models  # noqa: PLC0415

    require_models(config, ["model.path", "teacher.path"] if has_teacher else ["model.path"])


def _doctor(arguments: list[str]) -> int:
    parser = _Parser(
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
    overrides = [_expand_home(argument) for argument in options.overrides or [DOCTOR_DEFAULT]]
    with open_configs(options.config_dir) as configs:
        (job,) = training_jobs(configs, overrides, False)
    from effopd.doctor.examination import examine  # noqa: PLC0415
    from effopd.doctor.report import write_json, write_text  # noqa: PLC0415
    from effopd.launch import start  # noqa: PLC0415

    findings = examine(job.config, start if options.engines else None)
    is_sound = write_json(findings, sys.stdout) if options.json else write_text(findings, sys.stdout)
    return 0 if is_sound else 2


def _run_app(
    name: str,
    purpose: str,
    arguments: list[str],
    jobs_of: Callable[[Configs, Sequence[str], bool], list[Job]],
    check: Callable[[RunConfig], None],
    start: Callable[[RunConfig], None],
) -> int:
    parser = _app_parser(name, purpose)
    options, unknown = parser.parse_known_intermixed_args(arguments)
    if unknown:
        flags = ("--cfg", "--config-dir", "--help", "--info", "--multirun", "--package", "--resolve")
        if name == "train":
            flags += ("--timeline",)
        raise ConfigError(f"unknown option {unknown[0]}{nearest(unknown[0], flags)}; {parser.prog} --help shows them")
    if (options.package or options.resolve) and not options.cfg:
        raise ConfigError("--package and --resolve have no effect without --cfg job; add it")
    overrides = [_expand_home(argument) for argument in options.overrides]
    if options.timeline:
        overrides.append("logger.timeline=true")
    with open_configs(options.config_dir) as configs:
        if options.help:
            words = [word for word in options.overrides if "=" not in word]
            tree = configs.compose(name, []) if words else {}
            pages = [explained(name, word, tree) for word in words]
            sys.stdout.write("\n".join(pages) or overview(name, parser.format_help(), configs.choices()))
            return 0
        if options.info or options.cfg:
            if options.multirun:
                raise ConfigError("--multirun runs jobs; --cfg and --info show one: leave one of them out")
            _show(configs, name, overrides, options)
            return 0
        jobs = jobs_of(configs, overrides, options.multirun)
    for job in jobs:
        check(job.config)
    if options.multirun:
        return _run_sweep(jobs, start)
    start(jobs[0].config)
    return 0


def _run_sweep(jobs: Sequence[Job], start: Callable[[RunConfig], None]) -> int:
    """Run the jobs in this process, one after the other, so that a later one can reuse what an earlier one started."""
    for number, job in enumerate(jobs, start=1):
        _report(f"job {number} of {len(jobs)}: {job.label}")
        try:
            start(job.config)
        except EffOPDError as error:
            _report(str(error))
            _report(f"the sweep ends with its job {number} of {len(jobs)}, which failed")
            return 1
    return 0


def _app_parser(name: str, purpose: str) -> _Parser:
    parser = _Parser(
        prog=f"effopd {name}",
        usage=f"effopd {name} [options] [group=choice ...] [key=value ...]",
        description=purpose,
        add_help=False,
        allow_abbrev=False,
    )
    parser.add_argument("overrides", nargs="*", help="group=choice or key=value; see below")
    parser.add_argument(
        "-h", "--help", action="store_true", help="show this text; --help SECTION explains its settings"
    )
    parser.add_argument(
        "-m", "--multirun", action="store_true", help="run every combination of key=a,b,... one after the other"
    )
    parser.add_argument("-c", "--cfg", choices=["job"], help="show the settings instead of running")
    parser.add_argument("-p", "--package", metavar="SECTION", help="with --cfg: only this section")
    parser.add_argument("--resolve", action="store_true", help="with --cfg: resolve ${...}")
    if name == "train":
        parser.add_argument("--timeline", action="store_true", help="write timeline.json: what every role did when")
    parser.set_defaults(timeline=False)
    info = ["all", "config", "defaults", "defaults-tree", "plugins", "searchpath"]
    parser.add_argument("-i", "--info", nargs="?", const="all", choices=info, help="show what Hydra composes from")
    parser.add_argument(
        "-cd",
        "--config-dir",
        type=Path,
        metavar="FOLDER",
        help="take further YAML files from here, e.g. experiment/*.yaml",
    )
    return parser


def _show(configs: Configs, root: str, overrides: list[str], options: argparse.Namespace) -> None:
    parsed = checked_overrides(configs, overrides, is_multirun=False)
    if options.info:
        configs.show_info(options.info, root, overrides)
    elif root == "train" and any(override.key == "resume" for override in parsed):
        sys.stdout.write(to_yaml(training_jobs(configs, overrides, False)[0].config))
    else:
        sys.stdout.write(configs.to_yaml(root, overrides, options.package, options.resolve))


def _expand_home(argument: str) -> str:
    """`key=~/x` with the home folder, which most shells leave to the program and Hydra's grammar refuses."""
    key, equals, value = argument.partition("=")
    return f"{key}={os.path.expanduser(value)}" if equals and re.match(r"~(/|$)", value) else argument


def _plan(arguments: list[str]) -> int:
    parser = _Parser(
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
    overrides = [_expand_home(argument) for argument in options.overrides]
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


def _study(arguments: list[str]) -> int:
    parser = _Parser(
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
        study = read_study(configs, options.study, [_expand_home(argument) for argument in options.overrides])
    output = options.output or Path("runs", "studies", study.settings.name)
    from effopd.study.execute import report_study, run_study  # noqa: PLC0415

    failures = [] if options.report else run_study(study, output, options.workers, _report)
    sys.stdout.write(report_study(study, output, failures))
    return 1 if failures else 0


def _num_workers(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number of processes, 1 or more")
    return int(text)


def _compare(arguments: list[str]) -> int:
    parser = _Parser(
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


def _export(arguments: list[str]) -> int:
    parser = _Parser(prog="effopd export", description="Write a checkpoint of a run as a Hugging Face model folder.")
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


def _completion(arguments: list[str]) -> int:
    parser = _Parser(prog="effopd completion", description='Tab completion: eval "$(effopd completion bash)"')
    parser.add_argument("shell", choices=["bash", "query"], help="bash: print the script; query: what it calls")
    parser.add_argument("line", nargs="?", default="", help="query: the command line so far")
    options = parser.parse_args(arguments)
    if options.shell == "bash":
        sys.stdout.write(BASH)
        return 0
    with open_configs() as configs:
        found = candidates(options.line, tuple(COMMANDS), configs.choices(), study_names())
    sys.stdout.writelines(f"{word}\n" for word in found)
    return 0


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "train": _train,
    "eval": _evaluate,
    "plan": _plan,
    "study": _study,
    "compare": _compare,
    "export": _export,
    "doctor": _doctor,
    "completion": _completion,
}
