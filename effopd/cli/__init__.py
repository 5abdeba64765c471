"""The `effopd` command: `train`, `eval`, `doctor`, `plan`, `study`, `compare`, `export` and `completion`.

Whatever a person can get wrong on a command line is said in one line per mistake on standard error, before torch, Ray or
vLLM are imported. Exit codes: 0 done; 2 a wrong setting or data file, and a plan that does not fit; 1 any other error of
ours, and any job of a sweep that fails, which ends the sweep; 130 interrupted. Errors that nobody foresaw keep their
traceback.
"""

import os
import sys
from collections.abc import Callable, Sequence

import effopd
from effopd.cli.arguments import Parser, report
from effopd.cli.foresight import doctor, plan
from effopd.cli.results import compare, export, study
from effopd.cli.runs import evaluate, train
from effopd.config.completion import BASH, candidates
from effopd.config.keys import nearest
from effopd.config.register import open_configs
from effopd.config.study import study_names
from effopd.errors import ConfigError, DataError, EffOPDError
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
        report(str(error))
        return 2 if isinstance(error, ConfigError | DataError) else 1
    except Terminated as ended:
        report(str(ended))
        return 128 + ended.signal_number
    except KeyboardInterrupt:
        return 130


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


def _completion(arguments: list[str]) -> int:
    parser = Parser(prog="effopd completion", description='Tab completion: eval "$(effopd completion bash)"')
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
    "train": train,
    "eval": evaluate,
    "plan": plan,
    "study": study,
    "compare": compare,
    "export": export,
    "doctor": doctor,
    "completion": _completion,
}
