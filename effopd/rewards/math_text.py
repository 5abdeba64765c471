"""Mathematical answers as text: one spelling for each thing, units apart, words and letters of choice recognised."""

import ast
import json
import re
import unicodedata

_TEXT = r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mbox|hbox|operatorname)\s*"
_WRAPPED = re.compile(_TEXT + r"\{([^{}]*)\}")
_DIGITS_APART = re.compile(r"(?<![0-9])\s+|\s+(?![0-9])")
_GROUPED = re.compile(r"(?<![0-9.])[0-9]{1,3}(?:(?: |\\[,;: ]|~)[0-9]{3})+(?![0-9])")
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_SUPERSCRIPT_RUN = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+")
# Unicode's names: many of these look like something else.
_SYMBOLS = {
    ord(unicodedata.lookup(name)): latex
    for name, latex in {
        "MINUS SIGN": "-",
        "EN DASH": "-",
        "SMALL HYPHEN-MINUS": "-",
        "MULTIPLICATION SIGN": r"\times ",
        "MIDDLE DOT": r"\cdot ",
        "DOT OPERATOR": r"\cdot ",
        "DIVISION SIGN": "/",
        "DIVISION SLASH": "/",
        "FRACTION SLASH": "/",
        "GREEK SMALL LETTER PI": r"\pi ",
        "GREEK SMALL LETTER THETA": r"\theta ",
        "GREEK SMALL LETTER ALPHA": r"\alpha ",
        "GREEK SMALL LETTER BETA": r"\beta ",
        "INFINITY": r"\infty ",
        "LESS-THAN OR EQUAL TO": r"\le ",
        "GREATER-THAN OR EQUAL TO": r"\ge ",
        "NOT EQUAL TO": r"\ne ",
        "PLUS-MINUS SIGN": r"\pm ",
        "UNION": r"\cup ",
        "INTERSECTION": r"\cap ",
        "ELEMENT OF": r"\in ",
        "EMPTY SET": r"\emptyset ",
        "SET MINUS": r"\setminus ",
        "DOUBLE-STRUCK CAPITAL R": r"\mathbb{R}",
        "DEGREE SIGN": r"^\circ",
        "NO-BREAK SPACE": " ",
        "THIN SPACE": " ",
        "NARROW NO-BREAK SPACE": " ",
    }.items()
}
_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
_FRACTION_SLASH = unicodedata.lookup("FRACTION SLASH")

_PERCENT = re.compile(r"\\?%|(?<![a-zA-Z])(?:percent(?:age)?|pct)(?![a-zA-Z])")
_BASE = re.compile(r"\(?([0-9]+)\)?_(?:\{([0-9]+)\}|([0-9]))")
_UNIT_IN_TEXT = re.compile(r"(?P<value>.*\S)\s*" + _TEXT + r"\{(?P<unit>[^{}0-9]*)\}(?:\^(?:\{?(?P<power>[23])\}?))?")
_UNIT_IN_WORDS = re.compile(
    r"(?P<value>.*?[0-9}])(?P<gap>\s*)(?P<unit>[a-zA-Z][a-zA-Z ./]*?)(?:\^(?:\{?(?P<power>[23])\}?))?"
)
_UNITS = {
    "degree": "degree degrees deg ^\\circ ^{\\circ} \\circ \\degree",
    "percent": "percent",
    "mm": "mm millimeter millimeters millimetre millimetres",
    "cm": "cm centimeter centimeters centimetre centimetres",
    "m": "m meter meters metre metres",
    "km": "km kilometer kilometers kilometre kilometres",
    "inch": "in inch inches",
    "foot": "ft foot feet",
    "yard": "yd yard yards",
    "mile": "mi mile miles",
    "g": "g gram grams",
    "kg": "kg kilogram kilograms",
    "pound": "lb lbs pound pounds",
    "second": "s sec second seconds",
    "minute": "min minute minutes",
    "hour": "h hr hrs hour hours",
    "day": "day days",
    "week": "week weeks",
    "month": "month months",
    "year": "yr year years",
    "cent": "cent cents",
    "dollar": "dollar dollars",
    "km/h": "km/h kmh kph",
    "mph": "mph",
    "m/s": "m/s",
}
_UNIT_NAMES = {name: unit for unit, names in _UNITS.items() for name in names.split()}
_DEGREES = re.compile(r"(?P<value>.*\S)\s*(?:\^\s*(?:\{\s*\\circ\s*\}|\\circ)|\\degree)")
_LONG_WORD = 4  # letters; a shorter run may be a product of variables

_CHOICE = re.compile(r"\(?([A-J])\)?")
_CHOICE_THEN_TEXT = re.compile(r"\(?([A-J])(?:\)|[.:])\s*(.*)")
_SHORT_WORDS = frozenset({"yes", "no", "true", "odd", "even", "none", "all"})


def tidy(text: str) -> str:
    """Return the answer in ASCII LaTeX, without what only decorates it.

    Gone are dollar signs, `\\left` and `\\right`, thin spaces, thousands separated by spaces, an outer box, a full stop at the
    end. Unicode digits, signs, fractions and exponents are spelled out.
    """
    text = _ascii(text).strip()
    text = re.sub(r"^\\(?:boxed|fbox)\s*\{(.*)\}$", r"\1", text, flags=re.DOTALL)
    text = re.sub(r"\\text\s*\{\s*\\\$\s*\}|(?<!\\)\\[()\[\]]|\\\$|\$|€|£|\*\*|\\displaystyle", "", text)
    text = re.sub(r"\\\\\[-?[0-9.]+[a-z]{2}\]", r"\\\\", text)
    text = re.sub(r"(?<![\\a-zA-Z])infinity\b", r"\\infty", text)
    text = re.sub(r"\\[dtc]frac", r"\\frac", text)
    text = re.sub(r"\\(?:left|right|[bB]igg?[lr]?)(?![a-zA-Z])\s*", "", text)
    text = re.sub(r"(?:\\!|\{\\!\})\s*", "", text).replace("{,}", ",")
    text = _GROUPED.sub(lambda match: re.sub(r"[^0-9]", "", match.group()), text)
    text = re.sub(r"(?<!\\)\\[,;: ]|~", " ", text).strip()
    return text.rstrip(".").strip() if not text.endswith("...") else text


def _ascii(text: str) -> str:
    spelled = []
    for character in text:
        if unicodedata.category(character) == "Nd":
            spelled.append(str(unicodedata.decimal(character)))
        elif _FRACTION_SLASH in (parts := unicodedata.normalize("NFKC", character)) and len(parts) > 1:
            numerator, denominator = parts.split(_FRACTION_SLASH)
            spelled.append(f"\\frac{{{numerator}}}{{{denominator}}}")
        else:
            spelled.append(character)
    text = _SUPERSCRIPT_RUN.sub(lambda run: f"^{{{run.group().translate(_SUPERSCRIPTS)}}}", "".join(spelled))
    text = re.sub(r"√\s*([0-9]+|[a-z])", r"\\sqrt{\1}", text).replace("√", "\\sqrt")
    return text.translate(_FULL_WIDTH | _SYMBOLS)


def as_gold(answer: str) -> str:
    """Return an answer of a data set, tidied. A list of texts, as OlympiadBench has, is all of them: `a, b`."""
    stripped = answer.strip()
    if stripped.startswith(("['", '["')) and stripped.endswith(("']", '"]')):
        for read in (json.loads, ast.literal_eval):
            try:
                parts = read(stripped)
            except (ValueError, SyntaxError):
                continue
            if isinstance(parts, list) and all(isinstance(part, str) for part in parts):
                return ", ".join(tidy(part) for part in parts)
    return tidy(answer)


def unwrapped(text: str) -> str:
    """Return the text with the words of `\\text{...}` and its like bare."""
    while (bare := _WRAPPED.sub(r"\1", text)) != text:
        text = bare
    return text


def compact(text: str) -> str:
    """Return the text without white space, but for that between digits: `1 2` is not 12."""
    return _DIGITS_APART.sub("", unwrapped(text).strip())


def split_unit(text: str) -> tuple[str, str | None]:
    """Return an answer without its unit, and the unit: `percent`, `degree`, `base 8`, `cm`, `cm^2`, or any word that follows.

    A single bare letter, or two or three that name no unit, are variables.
    """
    if base := _BASE.fullmatch(text):
        return base.group(1), f"base {base.group(2) or base.group(3)}"
    if percent := re.fullmatch(rf"(.*?\S)\s*(?:{_PERCENT.pattern}|{_TEXT}\{{\s*(?:{_PERCENT.pattern})\s*\}})", text):
        return percent.group(1), "percent"
    if degrees := _DEGREES.fullmatch(text):
        return degrees.group("value"), "degree"
    if match := _UNIT_IN_TEXT.fullmatch(text):
        return match.group("value"), _unit(match)
    match = _UNIT_IN_WORDS.fullmatch(text)
    if match and _is_unit_word(match.group("unit").strip(), match.group("gap")):
        return match.group("value"), _unit(match)
    return text, None


def _is_unit_word(word: str, gap: str) -> bool:
    is_long = len(gap) > 0 and len(max(word.split(), key=len)) >= _LONG_WORD and not re.search(r"\b(and|or)\b", word)
    return is_long or (len(word) > 1 and word in _UNIT_NAMES)


def _unit(match: re.Match[str]) -> str:
    word = match.group("unit").strip().strip(".")
    power = match.group("power")
    for prefix, dimension in (("square ", "2"), ("sq ", "2"), ("cubic ", "3")):
        if word.startswith(prefix):
            word, power = word.removeprefix(prefix), dimension
    name = _UNIT_NAMES.get(word, word)
    return f"{name}^{power}" if power else name


def units_clash(first: str | None, second: str | None) -> bool:
    """Return whether both answers have a unit that is known here, and not the same one."""
    if first is None or second is None or first == second:
        return False
    return all(unit.startswith("base ") or unit.partition("^")[0] in _UNITS for unit in (first, second))


def choice_letter(text: str) -> str | None:
    """Return the letter when the whole answer is one of A to J, perhaps in parentheses."""
    match = _CHOICE.fullmatch(compact(text))
    return match.group(1) if match else None


def chosen_letter(text: str) -> str | None:
    """Return the letter that a response chooses: `B`, `(B)`, `B. 42`, `(B) because`. None if other letters stand beside it."""
    bare = unwrapped(text).strip()
    match = _CHOICE_THEN_TEXT.fullmatch(bare)
    if match and not re.search(r"\b[A-J]\b", match.group(2)):
        return match.group(1)
    return choice_letter(bare)


def words(text: str) -> str | None:
    """Return an answer that is made of words, in lower case; None for one that may be mathematics."""
    bare = unwrapped(text)
    if not re.fullmatch(r"[^\W\d_]+(?:[ ,.'/-]+[^\W\d_]+)*[.!]?", bare.strip()):
        return None
    said = " ".join(re.findall(r"[^\W\d_]+", bare.lower()))
    longest = len(max(said.split(), key=len))
    is_marked = bare != text and longest > 1
    return said if is_marked or longest >= _LONG_WORD or said in _SHORT_WORDS else None
