"""`effopd train` and `effopd eval`: the commands whose arguments are settings, alone or as a sweep."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from effopd.cli.arguments import Parser, expand_home, report
from effopd.config.check import needs_teacher
from effopd.config.help import explained, overview
from effopd.config.jobs import Job, checked_overrides, evaluation_jobs, training_jobs
from effopd.config.keys import MISSING, nearest
from effopd.config.register import Configs, open_configs, to_yaml
from effopd.config.schema import DebugMode, RunConfig
from effopd.errors import ConfigError, EffOPDError
from effopd.start_checks import require_folder, require_start, run_folder


def train(arguments: list[str]) -> int:
    def check(config: RunConfig) -> None:
        require_start(config)
        _require_models(config, has_teacher=needs_teacher(config))

    def start(config: RunConfig) -> None:
        # Here, after every check, torch, Ray and vLLM load.
        from effopd.launch import train as start_training  # noqa: PLC0415

        start_training(config)
        folder = run_folder(config)
        if config.debug.mode is DebugMode.none:
            sys.stdout.write(f"the run is in {folder}; effopd export {folder} --output <folder> makes a model of it\n")

    return _run_app("train", "Train a student.", arguments, training_jobs, check, start)


def evaluate(arguments: list[str]) -> int:
    def check(config: RunConfig) -> None:
        require_folder(config)
        _require_models(config, has_teacher=config.teacher.path != MISSING)

    def start(config: RunConfig) -> None:
        from effopd.scoring import evaluate as start_evaluation  # noqa: PLC0415

        start_evaluation(config)

    return _run_app("eval", "Score a model on an evaluation set.", arguments, evaluation_jobs, check, start)


def _require_models(config: RunConfig, *, has_teacher: bool) -> None:
    from effopd.model_folders import require_models  # noqa: PLC0415

    require_models(config, ["model.path", "teacher.path"] if has_teacher else ["model.path"])


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
    overrides = [expand_home(argument) for argument in options.overrides]
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
        report(f"job {number} of {len(jobs)}: {job.label}")
        try:
            start(job.config)
        except EffOPDError as error:
            report(str(error))
            report(f"the sweep ends with its job {number} of {len(jobs)}, which failed")
            return 1
    return 0


def _app_parser(name: str, purpose: str) -> Parser:
    parser = Parser(
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
