"""When an output counts as the expected one. Expected values come from the tests, outputs from the judged program."""

import math

RELATIVE = 1e-7
ABSOLUTE_FOR_FLOATS = 1e-6
TEXT_TOLERANCE = 1e-6


def is_expected(output, expected, atol):
    """EvalPlus's rule: equal, or of one type and element-wise within atol + 1e-7 |expected|, 1e-6 where floats are due."""
    if output == expected:
        return True
    if atol == 0 and _is_floats(expected):
        atol = ABSOLUTE_FOR_FLOATS
    return atol != 0 and type(output) is type(expected) and _is_close(output, expected, atol)


def is_same_set(output, expected):
    return isinstance(output, (list, tuple, set)) and set(output) == set(expected)


def is_listed(output, expected, *, is_wrapped):
    """Equal, tuples taken as lists; APPS and TACO may wrap the one expected value in a list (`is_wrapped`)."""
    output, expected = _as_lists(output), _as_lists(expected)
    if output == expected:
        return True
    return is_wrapped and isinstance(expected, list) and len(expected) == 1 and output == expected[0]


def is_same_text(output, expected):
    """Equal line by line but for white space; where a number with a fraction is due, within 1e-6 of it."""
    ours, theirs = _lines(output), _lines(expected)
    return len(ours) == len(theirs) and all(map(_is_same_line, ours, theirs))


def _is_floats(value):
    if isinstance(value, (list, tuple)):
        return bool(value) and all(isinstance(item, float) for item in value)
    return isinstance(value, float)


def _is_close(output, expected, atol):
    if isinstance(expected, (list, tuple)):
        return (
            isinstance(output, (list, tuple))
            and len(output) == len(expected)
            and all(_is_close(ours, theirs, atol) for ours, theirs in zip(output, expected))  # noqa: B905
        )
    if output == expected:
        return True
    if not isinstance(output, (int, float, complex)) or not isinstance(expected, (int, float, complex)):
        return False
    difference = abs(output - expected)
    return math.isfinite(difference) and difference <= atol + RELATIVE * abs(expected)


def _as_lists(value):
    if isinstance(value, (list, tuple)):
        return [_as_lists(item) for item in value]
    if isinstance(value, dict):
        return {key: _as_lists(item) for key, item in value.items()}
    return value


def _lines(text):
    return [line.split() for line in text.strip().splitlines()]


def _is_same_line(ours, theirs):
    return ours == theirs or (len(ours) == len(theirs) and all(map(_is_same_token, ours, theirs)))


def _is_same_token(output, expected):
    if output == expected:
        return True
    if expected.lstrip("+-").isdigit():
        return False
    try:
        return math.isclose(float(output), float(expected), rel_tol=TEXT_TOLERANCE, abs_tol=TEXT_TOLERANCE)
    except ValueError:
        return False
