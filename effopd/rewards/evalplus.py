"""What EvalPlus's files leave to its code: argument types that JSON cannot hold, and tasks with more than one right output.

Facts from EvalPlus 0.3 (evalplus/data/mbpp.py, evalplus/eval/_special_oracle.py), for MbppPlus v0.2.0 and HumanEvalPlus.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

# MBPP+ task numbers by what is a tuple in Python and a list in the file.
_EVERY_ARGUMENT = {
    2,
    116,
    132,
    143,
    222,
    261,
    273,
    394,
    399,
    421,
    424,
    429,
    470,
    560,
    579,
    596,
    616,
    630,
    726,
    740,
    744,
    809,
}
_ITEMS_OF_EVERY_ARGUMENT = {63, 64, 70, 94, 120, 237, 272, 299, 400, 409, 417, 438, 473, 614, 780}
_ITEMS_OF_THE_FIRST = {75, 413, 444, 753}
_THE_FIRST = {250, 307, 405, 446, 617, 720, 763, 808}
_THE_SECOND = {106, 750}
_EVERY_ARGUMENT_AND_ITS_ITEMS = {259, 278, 401, 445}
_EVERYTHING = {580, 615, 791}

_SAME_SET = {
    "similar_elements",
    "find_char_long",
    "common_in_nested_lists",
    "extract_singly",
    "larg_nnum",
    "intersection_array",
    "find_dissimilar",
    "Diff",
}
_IS_GIVEN = {"check_str", "text_match_three", "text_starta_endb"}

# Second solutions, where the task's text allows two readings and EvalPlus takes either.
_ALTERNATIVES = {
    "sum_div": "def sum_div(number):\n    return 0\n",
    "surface_Area": (
        "def surface_Area(base_edge, height):\n"
        "    slant_height = ((base_edge / 2) ** 2 + height**2) ** 0.5\n"
        "    return round(base_edge**2 + 2 * base_edge * slant_height)\n"
    ),
    "digit_distance_nums": (
        "def digit_distance_nums(first, second):\n"
        "    width = max(len(str(first)), len(str(second)))\n"
        "    pairs = zip(str(first).zfill(width), str(second).zfill(width))\n"
        "    return sum(abs(int(a) - int(b)) for a, b in pairs)\n"
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Oracle:
    """How an output is judged: a comparison of `guest/judge.py` with any of the references' outputs."""

    comparison: str
    references: list[str]


def humaneval_oracle(entry_point: str, prompt: str, solution: str) -> Oracle:
    """Return the oracle of a HumanEval+ task; a root of a polynomial is judged by the polynomial's value there."""
    if entry_point == "find_zero":
        return Oracle(comparison="is_zero", references=[f"{prompt}\nfind_zero = poly\n"])
    return Oracle(comparison="equal", references=[prompt + solution])


def mbpp_oracle(entry_point: str, solution: str) -> Oracle:
    """Return the oracle of an MBPP+ task.

    For `are_equivalent` EvalPlus takes any output at all, because the task's text defines nothing; here it must be a bool.
    """
    if entry_point == "are_equivalent":
        return Oracle(comparison="is_bool", references=[solution])
    comparison = "same_set" if entry_point in _SAME_SET else "is_given" if entry_point in _IS_GIVEN else "equal"
    alternatives = [_ALTERNATIVES[entry_point]] if entry_point in _ALTERNATIVES else []
    return Oracle(comparison=comparison, references=[solution, *alternatives])


def mbpp_arguments(task_number: int, inputs: Sequence[list]) -> list[list]:
    """Return the inputs of an MBPP+ task with the types that its functions expect."""
    return [_CONVERSIONS.get(task_number, list)(arguments) for arguments in inputs]


def _tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _items(value: object) -> object:
    return [_tuple(item) for item in value] if isinstance(value, list) else value


def _deep(value: object) -> object:
    return tuple(_deep(item) for item in value) if isinstance(value, list) else value


def _values(value: dict) -> dict:
    return {key: _tuple(item) for key, item in value.items()}


def _sets(value: list) -> list:
    # An empty one is a dictionary in EvalPlus, and its reference solution tells the two apart.
    return [set(item) if item else {} for item in value]


_CONVERSIONS: dict[int, Callable[[list], list]] = {
    **dict.fromkeys(_EVERY_ARGUMENT, lambda arguments: [_tuple(argument) for argument in arguments]),
    **dict.fromkeys(_ITEMS_OF_EVERY_ARGUMENT, lambda arguments: [_items(argument) for argument in arguments]),
    **dict.fromkeys(_ITEMS_OF_THE_FIRST, lambda arguments: [_items(arguments[0]), *arguments[1:]]),
    **dict.fromkeys(_THE_FIRST, lambda arguments: [_tuple(arguments[0]), *arguments[1:]]),
    **dict.fromkeys(_THE_SECOND, lambda arguments: [arguments[0], _tuple(arguments[1]), *arguments[2:]]),
    **dict.fromkeys(
        _EVERY_ARGUMENT_AND_ITS_ITEMS, lambda arguments: [_tuple(_items(argument)) for argument in arguments]
    ),
    **dict.fromkeys(_EVERYTHING, lambda arguments: [_deep(argument) for argument in arguments]),
    115: lambda arguments: [_sets(arguments[0])],
    124: lambda arguments: [float(arguments[0]), complex(arguments[1])],
    252: lambda arguments: [complex(arguments[0])],
    722: lambda arguments: [_values(arguments[0]), *arguments[1:]],
}
