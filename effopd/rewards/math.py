"""The verifier of mathematical answers: the same text, else the same number, else the same thing to math-verify.

math-verify parses hostile strings with sympy and may hang or take all memory, and its own time limits need SIGALRM.
They are off: this module runs in the workers of `effopd.rewards.pool`, which ends those that overrun. What math-verify gets
wrong about plain things (units, percentages, words, number bases, short decimals) is settled before it is asked.
"""

import logging
import re
import resource
from collections.abc import Mapping
from fractions import Fraction

import sympy

from effopd.rewards.final_answer import extract_final_answer
from effopd.rewards.math_numbers import is_rounded, numbers_equal, read_number
from effopd.rewards.math_text import (
    as_gold,
    choice_letter,
    chosen_letter,
    compact,
    split_unit,
    tidy,
    units_clash,
    unwrapped,
    words,
)

try:
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse
    from math_verify import verify as is_same_expression
except ImportError as error:
    raise ImportError(f"{error}; install effopd with its `math` extra") from error

MAX_BYTES = 4 * 2**30
"""Address space of a worker: 9^9^9^9 would take all there is within seconds."""

MAX_CHARS = 2000
"""No answer is longer; a response that loses itself on one line may be, and would take the parser minutes."""

_LATEX = LatexExtractionConfig(
    boxed_match_priority=0,
    normalization_config=NormalizationConfig(
        basic_latex=True,
        units=False,  # it takes variables for units: 2t for 2
        malformed_operators=True,
        nits=True,
        boxed="last",
        equations=False,
    ),
)
_MEMBERSHIP = re.compile(r"[a-zA-Z]\s*\\in(?![a-zA-Z])\s*(?=[(\[\\])")
_BARE_LOG = re.compile(r"\\log(?![a-zA-Z]|\s*_)")
_DIGITS = 30


def start_worker() -> None:
    """Prepare a worker process: bound its memory, and let the parser build its tables."""
    logging.disable()
    resource.setrlimit(resource.RLIMIT_AS, (MAX_BYTES, MAX_BYTES))
    _is_same("x+1", "1+x")


def verify(response: str, answer: str, metadata: Mapping[str, object]) -> float:
    """Return 1.0 when the final answer of the response is `answer`, else 0.0. Never raises on a response."""
    final = extract_final_answer(response)
    if final is None or len(final) > MAX_CHARS:
        return 0.0
    return float(is_equal(as_gold(answer), tidy(final)))


def is_equal(gold: str, given: str) -> bool:
    """Return whether two tidy answers are the same. They are not interchangeable: `gold` says what is asked for.

    Units, degree signs, percent signs and number bases may be left out on either side, but two different ones are two
    different answers. Letters of choice and words are compared as such, without regard to case.
    """
    if compact(gold) == compact(given):
        return compact(gold) != ""
    if choice_letter(gold) is not None and choice_letter(gold) == chosen_letter(given):
        return True
    if words(gold) is not None or words(given) is not None:
        return words(gold) == _as_words(given)
    (gold_value, gold_unit), (given_value, given_unit) = split_unit(_bare(gold)), split_unit(_bare(given))
    if units_clash(gold_unit, given_unit):
        return False
    wanted, got = read_number(compact(gold_value)), read_number(compact(given_value))
    if wanted is None or got is None:
        return _is_same(gold_value, given_value) or _is_same_with_natural_log(gold_value, given_value)
    texts = (compact(gold_value), compact(given_value))
    return numbers_equal(wanted, got, texts) or _is_percentage_of(wanted, gold_unit, got, given_unit)


def _bare(text: str) -> str:
    """Return the answer without `x \\in`, and without a `\\text{...}` around all of it."""
    text = _MEMBERSHIP.sub("", text, count=1) if _MEMBERSHIP.match(text) else text
    return unwrapped(text) if re.fullmatch(r"\\(?:text|textbf|mbox|mathrm)\s*\{[^{}]*\}", text) else text


def _as_words(text: str) -> str:
    return " ".join(re.findall(r"[^\W\d_]+", unwrapped(text).lower())) if not re.search(r"\d", text) else text


def _is_percentage_of(wanted: Fraction, gold_unit: str | None, got: Fraction, given_unit: str | None) -> bool:
    """Return whether one side says as a percentage what the other says as a share: 50% and 0.5."""
    if "percent" not in (gold_unit, given_unit) or gold_unit == given_unit:
        return False
    return wanted == 100 * got if gold_unit == "percent" else got == 100 * wanted


def _is_same(gold: str, given: str) -> bool:
    """Return whether math-verify takes two LaTeX answers for the same; anything that fails to parse is not."""
    try:
        expected, found = _parsed(gold), _parsed(given)
        decimal = read_number(compact(given)) if "." in given else None
        if decimal is not None and expected and all(_is_number(expression) for expression in expected):
            return any(_is_decimal_of(_evaluated(expression), decimal, compact(given)) for expression in expected)
        return bool(is_same_expression(expected, found, allow_set_relation_comp=True, timeout_seconds=None))
    except Exception:  # a parser fed hostile text may raise anything, and all of it means "not the same"
        return False


def _is_same_with_natural_log(gold: str, given: str) -> bool:
    """Compare again with a bare `\\log`, which math-verify takes to base 10, as `\\ln` when the other side writes that."""
    if ("\\ln" in gold) == ("\\ln" in given) or ("\\ln" not in gold + given):
        return False
    return _is_same(_BARE_LOG.sub(r"\\ln", gold), _BARE_LOG.sub(r"\\ln", given))


def _parsed(text: str) -> list:
    return parse(
        f"\\boxed{{{text}}}",
        extraction_config=[_LATEX],
        fallback_mode="no_fallback",
        extraction_mode="first_match",
        parsing_timeout=None,  # pyright: ignore[reportArgumentType]  (None is how its own documentation turns it off)
    )


def _is_number(expression: object) -> bool:
    return isinstance(expression, sympy.Expr) and expression.is_number and bool(expression.is_real)


def _evaluated(expression: sympy.Expr) -> Fraction:
    """Return the value to 30 digits."""
    return Fraction(str(sympy.N(expression, _DIGITS)))


def _is_decimal_of(exact: Fraction, decimal: Fraction, text: str) -> bool:
    return abs(exact - decimal) <= abs(exact) / 10 ** (_DIGITS - 5) or is_rounded(exact, text)
