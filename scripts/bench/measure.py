"""What every benchmark does in the same way: alternate the two sides, take medians, name the hardware, print the ratios.

A machine that others use changes its speed from minute to minute, so the two sides take turns and a ratio is the median
over rounds of the ratio within a round.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

import torch

Side = Callable[[], float]
"""Runs one side once and returns its figure: seconds, tokens per second or bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One ratio and what it was made of; `candidate[i]` and `baseline[i]` were measured one right after the other."""

    what: str
    baseline_name: str
    unit: str
    candidate: list[float]
    baseline: list[float]
    is_speed: bool
    """Whether the ratio is how fast the candidate is in relation to the baseline; else it is candidate / baseline."""
    goal: float
    is_goal_a_minimum: bool = True
    notes: dict[str, object] = field(default_factory=dict)

    @property
    def ratios(self) -> list[float]:
        pairs = zip(self.candidate, self.baseline, strict=True)
        is_inverted = self.is_speed and self.unit == "s"
        return [theirs / ours if is_inverted else ours / theirs for ours, theirs in pairs]

    @property
    def ratio(self) -> float:
        return median(self.ratios)

    def final_line(self) -> str:
        sign = ">=" if self.is_goal_a_minimum else "<="
        return f"ratio {self.ratio:.3g} (goal {sign} {self.goal:g}): {self.what} against {self.baseline_name}"


def alternate(
    num_rounds: int, candidate: Side, baseline: Side, num_warm_ups: int = 1
) -> tuple[list[float], list[float]]:
    """Return the figures of both sides, the order swapped from round to round; warm-ups are not measured."""
    for _ in range(num_warm_ups):
        candidate()
        baseline()
    ours, theirs = [], []
    for index in range(num_rounds):
        if index % 2 == 0:
            ours.append(candidate())
            theirs.append(baseline())
        else:
            theirs.append(baseline())
            ours.append(candidate())
    return ours, theirs


def hardware() -> dict[str, object]:
    """Return cores this process may use, processor model, memory and torch threads."""
    processor = next(
        (line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "unknown"
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": processor,
        "memory_gib": round(memory / 2**30),
        "torch_threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
    }


def resident_bytes() -> int:
    """Return the memory of this process that is in RAM now."""
    return _status_bytes("VmRSS")


def peak_bytes() -> int:
    """Return the most memory that this process has had in RAM, since it began or since `peak_growth`."""
    return _status_bytes("VmHWM")


def peak_growth(action: Callable[[], object]) -> int:
    """Return by how many bytes RAM grew above the present at the worst moment of `action`.

    The kernel's mark is reset first: `ru_maxrss` would also hold what came before, such as the loading of a model.
    """
    Path("/proc/self/clear_refs").write_text("5")
    before = resident_bytes()
    action()
    return peak_bytes() - before


def argument_parser(description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="measured rounds, each with both sides (default: 7)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of each engine (default: 2)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="append the figures to FILE, as one line of JSON")
    return parser


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Return the arguments, with as many torch threads as they say.

    OpenMP reads its settings when torch is loaded, which has happened by now. So a process that was started with other
    settings starts again with the right ones: threads that spin while they wait would measure the machine's other load.
    """
    arguments = parser.parse_args()
    settings = {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": str(arguments.threads)}
    if any(os.environ.get(name) != value for name, value in settings.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **settings})
    torch.set_num_threads(arguments.threads)
    return arguments


def report(arguments: argparse.Namespace, comparisons: list[Comparison]) -> None:
    """Print figures, hardware and seed, then one line per ratio."""
    for comparison in comparisons:
        print(f"{comparison.what}")
        print(f"  candidate  {_summary(comparison.candidate, comparison.unit)}")
        print(f"  baseline   {_summary(comparison.baseline, comparison.unit)}  ({comparison.baseline_name})")
        print(f"  ratio      {_summary(comparison.ratios, '')}")
        for name, value in comparison.notes.items():
            print(f"  {name}: {value:.4g}" if isinstance(value, float) else f"  {name}: {value}")
    machine = hardware()
    print("hardware: " + ", ".join(f"{name} {value}" for name, value in machine.items()) + f"; seed {arguments.seed}")
    for comparison in comparisons:
        print(comparison.final_line())
    if arguments.json is not None:
        figures = {
            "hardware": machine,
            "seed": arguments.seed,
            "comparisons": [{**asdict(comparison), "ratio": comparison.ratio} for comparison in comparisons],
        }
        with arguments.json.open("a") as file:
            file.write(json.dumps(figures) + "\n")


def _summary(values: list[float], unit: str) -> str:
    return f"median {median(values):.4g} {unit} ({min(values):.4g} to {max(values):.4g}, {len(values)} rounds)"


def _status_bytes(name: str) -> int:
    return next(int(line.split()[1]) * 1024 for line in _lines("/proc/self/status") if line.startswith(name + ":"))


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()
