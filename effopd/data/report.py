"""What became of the rows of a data set, for people to read and for `data.json` in the run's folder."""

import hashlib
import json
import logging
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from effopd.data.contamination import SetOverlap
from effopd.durable import replace_file
from effopd.errors import DataError
from effopd.types import Prompt

DATA_NAME = "data.json"
_REASONS_SHOWN = 3

logger = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class ReadReport:
    """Counts of one data set. The rows read are the bad, the left out, the duplicate, the too long and the used, and
    the contaminated where these are dropped."""

    section: str
    """The dotted key that the source stands under."""
    path: str
    num_rows: int = 0
    num_left_out: int = 0
    """By `where`, or as a test task of MBPP."""
    num_bad_rows: int = 0
    bad_row_reasons: list[str] = field(default_factory=list)
    """The first three."""
    num_duplicates: int = 0
    num_conflicting_duplicates: int = 0
    """Duplicates whose answer is not that of the first."""
    num_too_long: int = 0
    num_without_answer: int = 0
    """Used all the same, where the schema has an answer and the row has an empty one."""
    num_contaminated: int = 0
    """Rows that overlap with at least one evaluation set."""
    overlaps: dict[str, SetOverlap] = field(default_factory=dict)
    """By evaluation set. Empty for evaluation sets themselves."""
    num_prompts: int = 0
    """What is left."""

    def add_bad_row(self, reason: str) -> None:
        self.num_bad_rows += 1
        if len(self.bad_row_reasons) < _REASONS_SHOWN:
            self.bad_row_reasons.append(reason)

    def log(self, max_prompt_len: int, *, is_contamination_kept: bool) -> None:
        """Warn of every row that is not used."""
        if self.num_bad_rows:
            shown = "; ".join(self.bad_row_reasons)
            logger.warning("%s: skipped %d of %d rows: %s", self.path, self.num_bad_rows, self.num_rows, shown)
        if self.num_duplicates:
            logger.warning(
                "%s: dropped %d duplicates of %d rows, %d of them with another answer than the first",
                self.path, self.num_duplicates, self.num_rows, self.num_conflicting_duplicates,
            )  # fmt: skip
        if self.num_without_answer:
            logger.warning(
                "%s: %d rows have an empty answer, which no response can match", self.path, self.num_without_answer
            )
        if self.num_too_long:
            logger.warning(
                "%s: dropped %d of %d prompts longer than %s.max_prompt_len=%d tokens",
                self.path, self.num_too_long, self.num_prompts + self.num_contaminated + self.num_too_long,
                self.section, max_prompt_len,
            )  # fmt: skip
        if self.num_contaminated:
            logger.warning(
                "%s: %s %d prompts that overlap with evaluation sets (%s)",
                self.path, "kept" if is_contamination_kept else "dropped", self.num_contaminated, self.shown_overlaps(),
            )  # fmt: skip

    def shown_overlaps(self) -> str:
        """Return the counts of every evaluation set in words."""
        return ", ".join(
            f"{name}: {found.equal} equal, {found.shared_run} share 13 words, {found.wording} more share wording alone"
            for name, found in self.overlaps.items()
        )


def data_fingerprint(prompts: Sequence[Prompt]) -> str:
    """Return a hash over ids, token ids and answers, in order: equal exactly when a run would see the same prompts."""
    digest = hashlib.blake2b(digest_size=16)
    for prompt in prompts:
        for part in (prompt.prompt_id.encode(), array("q", prompt.token_ids).tobytes(), prompt.answer.encode()):
            digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class DataRecord:
    """One data set of a run: what was read, and the fingerprint of the prompts that came of it."""

    report: ReadReport
    fingerprint: str


def write_records(run_dir: Path, records: Mapping[str, DataRecord]) -> None:
    """Write `data.json`: for every data set, by the key that it stands under, its counts, overlaps and fingerprint."""
    rows = {name: {"fingerprint": record.fingerprint, **asdict(record.report)} for name, record in records.items()}
    replace_file(run_dir / DATA_NAME, (json.dumps(rows, indent=2) + "\n").encode())


def check_unchanged(run_dir: Path, records: Mapping[str, DataRecord]) -> None:
    """Raise DataError when a resumed run would see other prompts than it has seen so far.

    A run that was killed before it wrote `data.json` has seen none.
    """
    path = run_dir / DATA_NAME
    if not path.is_file():
        return
    try:
        before = {name: (row["num_prompts"], row["fingerprint"]) for name, row in json.loads(path.read_bytes()).items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(
            f"{path}: damaged ({type(error).__name__}: {error}); restore it, or remove it if the data is still the same"
        ) from error
    changed = [
        f"{record.report.section}.path={record.report.path}: gives {record.report.num_prompts} prompts, not the "
        f"{before[name][0]} that the run began with; restore the file (and the tokenizer), or start a new run"
        for name, record in records.items()
        if name in before and before[name][1] != record.fingerprint
    ]
    if changed:
        raise DataError("\n".join(changed))
