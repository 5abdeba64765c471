"""Rows whose tests are inputs and outputs: Eurus-RL-Code and other verl sets, APPS, TACO, LiveCodeBench.

They differ in where the cases are kept and how they are packed; all end as a CodeTask of kind `stdio`, whole programs, or
`calls`, one function. Packed cases are unpacked without executing anything: a pickle's text is read, the pickle is not run.
"""

import base64
import binascii
import json
import pickletools
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from effopd.errors import DataError

MAX_UNPACKED_BYTES = 2**28

# What LeetCode's starter code takes for granted.
LEETCODE_PROMPT = """\
import bisect, collections, functools, heapq, itertools, math, random, re, string
from bisect import *
from collections import *
from functools import *
from heapq import *
from itertools import *
from math import *
from typing import *
"""


@dataclass(frozen=True, slots=True)
class Cases:
    """Tests of one row. Texts when `function` is None, else lists of arguments, and results."""

    inputs: list
    outputs: list
    function: str | None
    is_wrapped: bool
    """Whether an output may stand in a list of its own, as in APPS."""

    def tests(self) -> dict[str, object]:
        """Return them as `CodeTask.tests`."""
        if self.function is None:
            return {"kind": "stdio", "inputs": self.inputs, "outputs": self.outputs}
        return {
            "kind": "calls",
            "entry_point": self.function,
            "inputs": repr(self.inputs),
            "outputs": repr(self.outputs),
            "is_wrapped": self.is_wrapped,
            "prompt": LEETCODE_PROMPT,
        }


def read_cases(values: Mapping[str, object]) -> Cases:
    """Return the cases of a row. Raises DataError naming the field when there are none or they are damaged."""
    if values.get("public_test_cases") is not None or values.get("private_test_cases") is not None:
        return _live_code_bench(values)
    if values.get("reward_model") is not None:
        reward_model = values["reward_model"]
        if not isinstance(reward_model, Mapping) or "ground_truth" not in reward_model:
            raise DataError(f"field 'reward_model' must hold 'ground_truth'; it is {reward_model!r:.100}")
        return _apps(reward_model["ground_truth"], "reward_model.ground_truth")
    for field in ("input_output", "ground_truth", "tests"):
        if values.get(field) is not None:
            return _apps(values[field], field)
    raise DataError(
        "no field with test cases: 'reward_model' (verl), 'input_output' (APPS, TACO), 'public_test_cases' "
        f"(LiveCodeBench), 'ground_truth' or 'tests'; the row has {', '.join(map(str, values)) or 'no fields'}"
    )


def _apps(packed: object, field: str) -> Cases:
    """{"inputs": [...], "outputs": [...], "fn_name"?}, as JSON or as it is."""
    cases = _json(packed, field) if isinstance(packed, str) else packed
    if not isinstance(cases, Mapping):
        raise DataError(f"field {field!r} must be an object with inputs and outputs; it is {cases!r:.100}")
    inputs, outputs = (_sequence(cases, name, field) for name in ("inputs", "outputs"))
    if not inputs or len(inputs) != len(outputs):
        raise DataError(
            f"field {field!r} has {len(inputs)} inputs and {len(outputs)} outputs; give as many of each, not 0"
        )
    function = cases.get("fn_name")
    if function is None:
        return Cases([_text(item, field) for item in inputs], [_text(item, field) for item in outputs], None, False)
    if not isinstance(function, str) or not function.isidentifier():
        raise DataError(f"field {field!r}: 'fn_name' must be a function's name; it is {function!r}")
    arguments = [_arguments(item, field) for item in inputs]
    return Cases(arguments, [_decoded(item, field) for item in outputs], function, True)


def _live_code_bench(values: Mapping[str, object]) -> Cases:
    """Lists of {"input", "output", "testtype"}, the private ones compressed; functions have their name in `metadata`."""
    cases: list[object] = []
    for field in ("public_test_cases", "private_test_cases"):
        packed = values.get(field)
        if packed:
            cases += _sequence({field: _unpacked(packed, field)}, field, field)
    if not cases:
        raise DataError("field 'public_test_cases' is empty; a task without tests would pass anything")
    field = "public_test_cases"
    inputs, outputs, kinds = [], [], set()
    for case in cases:
        if not isinstance(case, Mapping) or not {"input", "output"} <= case.keys():
            raise DataError(f"field {field!r} must list objects with input and output; one is {case!r:.100}")
        inputs.append(_text(case["input"], field))
        outputs.append(_text(case["output"], field))
        kinds.add(case.get("testtype", "stdin"))
    if kinds == {"stdin"}:
        return Cases(inputs, outputs, None, False)
    if kinds != {"functional"}:
        raise DataError(
            f"field {field!r}: testtype must be stdin or functional throughout; it is {sorted(map(str, kinds))}"
        )
    metadata = values.get("metadata")
    metadata = _json(metadata, "metadata") if isinstance(metadata, str) else metadata
    function = metadata.get("func_name") if isinstance(metadata, Mapping) else None
    if not isinstance(function, str) or not function.isidentifier():
        raise DataError(f"field 'metadata' must name the function as func_name; it is {metadata!r:.100}")
    arguments = [[_json(line, field) for line in text.splitlines() if line.strip()] for text in inputs]
    return Cases(arguments, [_json(text, field) for text in outputs], function, False)


def _unpacked(packed: object, field: str) -> object:
    """Return a list of cases that is JSON, or JSON in a pickle in zlib in base64."""
    if not isinstance(packed, str):
        return packed
    if packed.lstrip().startswith("["):
        return _json(packed, field)
    try:
        decompressor = zlib.decompressobj()
        pickled = decompressor.decompress(base64.b64decode(packed, validate=True), MAX_UNPACKED_BYTES)
        texts = [argument for _, argument, _ in pickletools.genops(pickled) if isinstance(argument, str)]
    except (binascii.Error, zlib.error, ValueError) as error:
        raise DataError(f"field {field!r} is neither JSON nor compressed JSON: {error}") from error
    if len(texts) != 1 or decompressor.unconsumed_tail:
        raise DataError(
            f"field {field!r} must hold one text of at most {MAX_UNPACKED_BYTES} bytes; it has {len(texts)}"
        )
    return _json(texts[0], field)


def _arguments(item: object, field: str) -> list:
    """Return one case's arguments: a list, or text with one JSON value per line."""
    if isinstance(item, str):
        return [_json(line, field) for line in item.splitlines() if line.strip()]
    if not isinstance(item, list):
        raise DataError(f"field {field!r}: the inputs of a function are lists of arguments; one is {item!r:.100}")
    return item


def _decoded(item: object, field: str) -> object:
    """Return an expected result; Eurus has some as JSON text, and a plain word is itself."""
    if not isinstance(item, str):
        return item
    try:
        return _json(item, field)
    except DataError:
        return item


def _text(item: object, field: str) -> str:
    if isinstance(item, list) and all(isinstance(line, str) for line in item):
        return "\n".join(item)
    if not isinstance(item, str):
        raise DataError(f"field {field!r}: inputs and outputs of a program are texts; one is {item!r:.100}")
    return item


def _sequence(cases: Mapping, name: str, field: str) -> Sequence:
    value = cases.get(name)
    if not isinstance(value, list):
        raise DataError(f"field {field!r}: {name} must be a list; it is {value!r:.100}")
    return value


def _json(text: str, field: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"field {field!r} is not JSON ({error}): {text!r:.100}") from error
