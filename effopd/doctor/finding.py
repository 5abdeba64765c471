"""What a check found."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from effopd.errors import EffOPDError
from effopd.preflight import Problem


class Status(StrEnum):
    passed = "pass"
    skipped = "skip"
    failed = "FAIL"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the report."""

    name: str
    status: Status
    message: str
    """What was measured, why it was skipped, or what is wrong."""
    remedy: str = ""
    """What to type; empty unless the check failed."""


def passed(name: str, message: str) -> Finding:
    return Finding(name=name, status=Status.passed, message=message)


def skipped(name: str, reason: str) -> Finding:
    return Finding(name=name, status=Status.skipped, message=reason)


def failed(name: str, message: str, remedy: str) -> Finding:
    return Finding(name=name, status=Status.failed, message=message, remedy=remedy)


def judged(name: str, problem: Problem | None, message: str) -> Finding:
    """`message` says what is well when there is no problem."""
    return passed(name, message) if problem is None else failed(name, problem.message, problem.remedy)


def of_error(name: str, error: EffOPDError) -> Finding:
    """An error whose text ends with its remedy, as those of this package do."""
    message, _, remedy = " ".join(str(error).split()).rpartition("; ")
    return failed(name, message or remedy, remedy if message else "")


def guarded(name: str, check: Callable[[], Finding]) -> Finding:
    """What `check` finds; an error becomes a finding, so that one broken check does not hide the others."""
    try:
        return check()
    except EffOPDError as error:
        return of_error(name, error)
    except Exception as error:  # whatever it is, the report goes on
        reason = " ".join(str(error).split())
        return failed(name, f"the check itself failed ({type(error).__name__}: {reason})", "report this as a bug")
