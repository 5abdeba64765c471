"""Toy runs under faults at random moments: every one must finish, with the weights of an undisturbed run.

    scripts/chaos.sh --faults 30 --seed 0

What the driver survives, it must survive by itself; a run whose driver is gone is resumed as a person would. Faults, runs and
moments come from the seed alone, but where within a step a moment falls depends on the machine. The exit code is 1 when a run did not
finish, ended elsewhere, or trained on a sample twice or not at all. Links between machines are cut in `tests/hosts`.
"""

import argparse
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from course import Course, miscounted, read_course
from fault_plan import NONFINITE, NUM_STEPS, Fault, Kind, RunPlan, Shape, draw_plan
from injections import inject
from outcomes import Injection, RunOutcome, outcome_of, table, write_json
from small_disk import small_disk, why_not
from toy_run import CHECKPOINT_EVERY, PROMPTS_PER_STEP, Pace, RunFailedError, ToyRun, undisturbed

from effopd.config.schema import NonfiniteRule
from effopd.errors import EffOPDError

EFFOPD = (sys.executable, "-m", "effopd")
POISONABLE = Path(__file__).with_name("poisonable.py")
SECONDS_TO_VANISH = 30.0
"""For the processes of a run after its end."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=30, help="in all (default: 30)")
    parser.add_argument("--seed", type=int, default=0, help="of the faults and their moments (default: 0)")
    parser.add_argument("--output", type=Path, help="a new folder (default: runs/chaos/<time>)")
    arguments = parser.parse_args()
    # As an exception: what was started is ended on the way out.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    folder = (arguments.output or Path("runs", "chaos", time.strftime("%Y-%m-%d_%H-%M-%S"))).resolve()
    folder.mkdir(parents=True)
    left_out = [f"{Kind.FULL_DISK}, for {reason}"] if (reason := why_not()) else []
    kinds = [kind for kind in Kind if not (left_out and kind is Kind.FULL_DISK)]
    plans = draw_plan(arguments.faults, arguments.seed, kinds)

    began = time.monotonic()
    references: dict[Shape, tuple[Pace, Course]] = {}
    outcomes: list[RunOutcome] = []
    for plan in plans:
        if plan.shape not in references:
            references[plan.shape] = reference_run(folder / f"undisturbed_{plan.shape}", plan.shape)
        outcomes.append(disturbed_run(plan, folder, *references[plan.shape]))
        # After every run: what is known outlives an interruption.
        (folder / "chaos.md").write_text(table(outcomes, left_out) + "\n")
        write_json(folder / "chaos.json", arguments.seed, outcomes, time.monotonic() - began)

    minutes = (time.monotonic() - began) / 60
    num_faults = sum(len(outcome.injections) for outcome in outcomes)
    print(f"\n{(folder / 'chaos.md').read_text()}")
    print(f"{num_faults} faults in {len(outcomes)} runs, {minutes:.0f} minutes; {folder}")
    problems = [f"{outcome.plan.name}: {problem}" for outcome in outcomes for problem in outcome.problems]
    for problem in problems:
        print(problem)
    return 1 if problems or num_faults < arguments.faults else 0


def reference_run(folder: Path, shape: Shape) -> tuple[Pace, Course]:
    """Train without faults."""
    print(f"{folder.name} ...", flush=True)
    log = folder.with_suffix(".log")
    with ended(ToyRun(folder=folder, log=log, program=EFFOPD, shape=shape, nonfinite=NonfiniteRule.stop)) as run:
        pace = undisturbed(run)
    print(f"  {pace.start:.0f} s to its first step, {pace.step:.2f} s for each other", flush=True)
    return pace, read_course(folder)


def disturbed_run(plan: RunPlan, folder: Path, pace: Pace, expected: Course) -> RunOutcome:
    """Train with the faults of a plan, and compare the run with the undisturbed one."""
    print(f"{plan.name} ...", flush=True)
    outcome = RunOutcome(plan)
    began = time.monotonic()
    disk = small_disk(folder / plan.name) if plan.has(Kind.FULL_DISK) else nullcontext(folder / plan.name)
    with disk as place:
        run = ToyRun(
            folder=place / "run",
            log=folder / f"{plan.name}.log",
            program=EFFOPD,
            shape=plan.shape,
            nonfinite=plan.nonfinite,
        )
        place.mkdir(exist_ok=True)
        if plan.has(*NONFINITE):
            run.poison_folder = place / "poison"
            run.poison_folder.mkdir()
            run.program = (sys.executable, str(POISONABLE), str(run.poison_folder))
        with ended(run):
            try:
                survive(plan, run, pace, outcome)
                outcome.problems += differences(plan, read_course(run.folder), expected)
                outcome.problems += [f"outlives the run: {title}" for title in run.leftovers(SECONDS_TO_VANISH)]
            except (RunFailedError, EffOPDError) as error:
                outcome.problems.append(str(error))
    outcome.seconds = time.monotonic() - began
    print(f"  {'FAILED' if outcome.problems else 'well'} after {outcome.seconds:.0f} s", flush=True)
    return outcome


def survive(plan: RunPlan, run: ToyRun, pace: Pace, outcome: RunOutcome) -> None:
    """Train to the end, under faults, and note them. Raises RunFailedError."""
    run.start()
    for fault, following in zip(plan.faults, [*plan.faults[1:], None], strict=True):
        wait_for_moment(fault, run, pace)
        num_printed = len(run.printed())
        deed = inject(fault, run)
        print(f"  {deed.row:2d} {fault.kind}: {deed.what}", flush=True)
        # What follows shows by the row of the next fault, or of the end.
        run.wait_for_row(NUM_STEPS if following is None else following.after_row)
        is_replaced = deed.victim is not None and run.has_replaced(deed.victim, deed.moment)
        followed = outcome_of(deed, run.printed()[num_printed:], is_replaced=is_replaced)
        outcome.injections.append(Injection(fault=fault, deed=deed, outcome=followed))
    if (code := run.wait_for_end()) != 0:
        raise RunFailedError(f"ended with {code}:\n{run.last_lines()}")


def wait_for_moment(fault: Fault, run: ToyRun, pace: Pace) -> None:
    run.wait_for_row(fault.after_row)
    time.sleep(fault.share * (pace.start if fault.after_row == 0 else pace.step))


@contextmanager
def ended(run: ToyRun) -> Iterator[ToyRun]:
    """Yield a run, and end what is left of it."""
    try:
        yield run
    finally:
        run.stop()


def differences(plan: RunPlan, course: Course, expected: Course) -> list[str]:
    """Return what a finished run did otherwise than it had to."""
    problems = []
    if course.last_step != NUM_STEPS:
        problems.append(f"its last sound checkpoint is at step {course.last_step}, not {NUM_STEPS}")
    if plan.is_same_course and course.weights != expected.weights:
        problems.append("other weights than the undisturbed run's")
    if plan.is_same_course and course.rows != expected.rows:
        problems.append("other records than the undisturbed run's")
    # A roll-back leaves out what led to it: the batches since the last checkpoint.
    num_roll_backs = sum(fault.kind is Kind.NONFINITE_ROLL_BACK for fault in plan.faults)
    most_left_out = num_roll_backs * CHECKPOINT_EVERY * PROMPTS_PER_STEP
    return problems + miscounted(course.steps, expected.steps, most_left_out)


if __name__ == "__main__":
    sys.exit(main())
