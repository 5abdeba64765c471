"""Reading numbers exactly, however they are written, and comparing them."""

import re
from fractions import Fraction

_MAX_DIGITS = 1000  # Python refuses to read integers of more than 4,300 digits
_MAX_EXPONENT = 1000
_SIGNIFICANT_DIGITS = 6
"""How exact a decimal must be to stand for a number that has no finite decimal."""

_PLAIN = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+"
_DECIMAL = re.compile(_PLAIN)
_EXPONENT = r"(?:\^\{([-+]?[0-9]+)\}|\^([0-9])|\^\(([-+]?[0-9]+)\))"
_SCIENTIFIC = re.compile(rf"(?:({_PLAIN})(?:\\times|\\cdot|\*|x))?10{_EXPONENT}")
_E_NOTATION = re.compile(rf"({_PLAIN})[eE]([-+]?[0-9]+)")
_REPEATING = re.compile(r"([0-9]+)\.([0-9]*)\\overline\{([0-9]+)\}")
_ARGUMENT = r"(?:\{([-+]?[0-9.,]+)\}|([0-9]))"
_FRACTION = re.compile(rf"\\frac\s*{_ARGUMENT}\s*{_ARGUMENT}")
_SLASHED = re.compile(rf"(?P<numerator>{_PLAIN})/(?P<denominator>{_PLAIN})")
_MIXED = re.compile(r"([0-9]+)\s*(\\frac.*)|([0-9]+)\s+([0-9]+/[0-9]+)")


def read_number(text: str) -> Fraction | None:
    """Return the number that `text` writes out in full, or None.

    Read are integers and decimals with or without thousands separators, fractions and mixed numbers in LaTeX or with a
    slash, scientific notation, and repeating decimals. `text` is tidy and holds no white space but between digits.
    """
    if len(text) > _MAX_DIGITS:
        return None
    sign = -1 if text.startswith("-") else 1
    bare = text[1:] if text.startswith(("-", "+")) else text
    value = _unsigned(bare)
    return None if value is None else sign * value


def _unsigned(text: str) -> Fraction | None:
    if mixed := _MIXED.fullmatch(text):
        whole, part = (mixed.group(1), mixed.group(2)) if mixed.group(1) else (mixed.group(3), mixed.group(4))
        fraction = _ratio(part)
        return None if fraction is None or fraction < 0 else Fraction(whole) + fraction
    if repeating := _REPEATING.fullmatch(text):
        whole, fixed, period = repeating.groups()
        scale = 10 ** len(fixed)
        return Fraction(whole + fixed) / scale + Fraction(period) / (scale * (10 ** len(period) - 1))
    if scientific := _SCIENTIFIC.fullmatch(text):
        factor, *exponents = scientific.groups()
        return _scaled(factor or "1", next(exponent for exponent in exponents if exponent))
    if notation := _E_NOTATION.fullmatch(text):
        return _scaled(*notation.groups())
    return _decimal(text) if _DECIMAL.fullmatch(text) else _ratio(text)


def _ratio(text: str) -> Fraction | None:
    if slashed := _SLASHED.fullmatch(text):
        numerator, denominator = slashed.group("numerator"), slashed.group("denominator")
    elif fraction := _FRACTION.fullmatch(text):
        over, over_digit, under, under_digit = fraction.groups()
        numerator, denominator = over or over_digit, under or under_digit
    else:
        return None
    above, below = (_signed_decimal(part) for part in (numerator, denominator))
    return above / below if above is not None and below else None


def _signed_decimal(text: str) -> Fraction | None:
    bare = text.lstrip("+-")
    if not _DECIMAL.fullmatch(bare):
        return None
    return -_decimal(bare) if text.startswith("-") else _decimal(bare)


def _decimal(text: str) -> Fraction:
    return Fraction(text.replace(",", ""))


def _scaled(factor: str, exponent: str) -> Fraction | None:
    if len(exponent) > 5 or abs(int(exponent)) > _MAX_EXPONENT:
        return None
    return _decimal(factor) * Fraction(10) ** int(exponent)


def numbers_equal(first: Fraction, second: Fraction, texts: tuple[str, str]) -> bool:
    """Return whether two numbers written as `texts` are equal, or one is the other rounded to a long enough decimal."""
    return first == second or any(
        not _is_finite_decimal(exact) and is_rounded(exact, text)
        for exact, text in ((first, texts[1]), (second, texts[0]))
    )


def is_rounded(exact: Fraction, text: str) -> bool:
    """Return whether `text` is a decimal of at least 6 significant digits and `exact`, rounded or cut off, is that."""
    bare, value = text.lstrip("+-"), _signed_decimal(text)
    digits = re.sub("[,.]", "", bare).lstrip("0")
    if value is None or "." not in bare or len(digits) < _SIGNIFICANT_DIGITS:
        return False
    unit = Fraction(1, 10 ** len(bare.partition(".")[2]))
    return abs(exact - value) <= unit / 2 or (exact * value > 0 and 0 <= abs(exact) - abs(value) < unit)


def _is_finite_decimal(value: Fraction) -> bool:
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return rest == 1
