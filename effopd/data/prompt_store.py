"""Sequences of prompts that need not fit into memory: a temporary Arrow file, read where it is needed.

The file is written once, when the prompts are read, so that what a run trains on cannot change under it, and is removed
from its folder at once: it goes when the process does.
"""

import json
import os
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import overload

import pyarrow as pa

from effopd.types import Prompt

ROWS_PER_BATCH = 512

_SCHEMA = pa.schema(
    {
        "prompt_id": pa.string(),
        "token_ids": pa.list_(pa.int32()),
        "text": pa.string(),
        "answer": pa.string(),
        "source": pa.string(),
        "metadata": pa.string(),
    }
)


class LazyPrompts(Sequence[Prompt]):
    """Prompts of an Arrow file, read when they are asked for; `indices` says which of its rows, in increasing order."""

    def __init__(self, file: pa.ipc.RecordBatchFileReader, indices: Sequence[int]) -> None:
        self._file = file
        self._indices = indices

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, index: int) -> Prompt: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Prompt, ...]: ...

    def __getitem__(self, index: int | slice) -> Prompt | tuple[Prompt, ...]:
        if isinstance(index, slice):
            return tuple(self._read(i) for i in self._indices[index])
        return self._read(self._indices[index])

    def __iter__(self) -> Iterator[Prompt]:
        """Yield all of them, a batch of the file at a time, which is ten times as fast as one by one."""
        for number, indices in groupby(self._indices, key=lambda index: index // ROWS_PER_BATCH):
            rows = self._file.get_batch(number).to_pylist()
            for index in indices:
                yield _to_prompt(rows[index % ROWS_PER_BATCH])

    def choose(self, positions: Iterable[int]) -> "LazyPrompts":
        """Return the prompts at `positions`, still on disk."""
        return LazyPrompts(self._file, array("q", (self._indices[position] for position in positions)))

    def _read(self, index: int) -> Prompt:
        batch = self._file.get_batch(index // ROWS_PER_BATCH)
        (row,) = batch.slice(index % ROWS_PER_BATCH, 1).to_pylist()
        return _to_prompt(row)


def _to_prompt(row: dict) -> Prompt:
    return Prompt(
        prompt_id=row["prompt_id"],
        token_ids=tuple(row["token_ids"]),
        text=row["text"],
        answer=row["answer"],
        source=row["source"],
        metadata=json.loads(row["metadata"]),
    )


def choose(prompts: Sequence[Prompt], positions: Iterable[int]) -> Sequence[Prompt]:
    """Return the prompts at `positions`, in memory or on disk as they were."""
    if isinstance(prompts, LazyPrompts):
        return prompts.choose(positions)
    return tuple(prompts[position] for position in positions)


def store_prompts(prompts: Iterator[Prompt], stream_above: int) -> Sequence[Prompt]:
    """Return `prompts` as a tuple, or as a file when there are more than `stream_above` of them."""
    kept: list[Prompt] = []
    for prompt in prompts:
        kept.append(prompt)
        if len(kept) > stream_above:
            return _on_disk(kept, prompts)
    return tuple(kept)


def _on_disk(first: list[Prompt], rest: Iterator[Prompt]) -> LazyPrompts:
    descriptor, path = tempfile.mkstemp(prefix="effopd-prompts-", suffix=".arrow")
    os.close(descriptor)
    try:
        with pa.OSFile(path, "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as writer:
            num_prompts = 0
            batch: list[Prompt] = []
            for prompt in _chained(first, rest):
                batch.append(prompt)
                if len(batch) == ROWS_PER_BATCH:
                    num_prompts += _write(writer, batch)
                    batch = []
            num_prompts += _write(writer, batch)
        reader = pa.ipc.open_file(pa.memory_map(path))
    finally:
        os.unlink(path)  # the mapping keeps what it maps

    return LazyPrompts(reader, range(num_prompts))


def _chained(first: list[Prompt], rest: Iterator[Prompt]) -> Iterator[Prompt]:
    """Yield both, forgetting the first as it goes."""
    first.reverse()
    while first:
        yield first.pop()
    yield from rest


def _write(writer: pa.ipc.RecordBatchFileWriter, prompts: list[Prompt]) -> int:
    rows = [
        {
            "prompt_id": prompt.prompt_id,
            "token_ids": list(prompt.token_ids),
            "text": prompt.text,
            "answer": prompt.answer,
            "source": prompt.source,
            # What JSON has no form for, dates and decimals of parquet files, becomes text.
            "metadata": json.dumps(prompt.metadata, default=str),
        }
        for prompt in prompts
    ]
    if rows:
        writer.write_batch(pa.RecordBatch.from_pylist(rows, _SCHEMA))
    return len(rows)
