"""Findings as a person or a program reads them."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import TextIO

from effopd.doctor.finding import Finding, Status

NAME_WIDTH = 20
_INDENT = " " * (len(Status.passed) + NAME_WIDTH + 3)


def write_text(findings: Iterable[Finding], out: TextIO) -> bool:
    """Write a line per finding, each as soon as it is there, and return whether nothing failed."""
    statuses = []
    for finding in findings:
        statuses.append(finding.status)
        out.write(as_text(finding) + "\n")
        out.flush()
    counts = {status: statuses.count(status) for status in Status}
    out.write(f"{counts[Status.passed]} passed, {counts[Status.skipped]} skipped, {counts[Status.failed]} failed\n")
    return counts[Status.failed] == 0


def as_text(finding: Finding) -> str:
    """Return one line, and a second one where there is something to type."""
    line = f"{finding.status}  {finding.name:{NAME_WIDTH}} {finding.message}"
    return f"{line}\n{_INDENT}-> {finding.remedy}" if finding.remedy else line


def write_json(findings: Iterable[Finding], out: TextIO) -> bool:
    """Write a list of objects with name, status, message and remedy, and return whether nothing failed."""
    found = list(findings)
    out.write(json.dumps([asdict(finding) for finding in found], indent=2) + "\n")
    return not any(finding.status is Status.failed for finding in found)
