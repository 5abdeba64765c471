"""Where in a response its final answer stands."""

import re

_BOX = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])")
_UNBRACED = re.compile(r"[^\s{}$]+")
_HASHES = re.compile(r"####[ \t]*([^\n]*)")
_ANNOUNCED = re.compile(r".*\banswer(?:\s+is|\s*:)(?:\s*:)?\s*(.+)", re.IGNORECASE)


def extract_final_answer(response: str) -> str | None:
    """Return the text of the final answer, or None when there is none.

    It is the content of the last `\\boxed{}` or `\\fbox{}` (or the word after a box without braces), else what follows the
    last `####`, else what the last line announces after "answer is" or "answer:", else the last line. An empty or never
    closed last box is no answer, whatever came before it. What was thought between `<think>` and `</think>` is not
    read, and a response that never stops thinking has no answer.
    """
    said = response.rpartition("</think>")[2]
    if "<think>" in said:
        return None
    boxes = list(_BOX.finditer(said))
    if boxes:
        return _boxed(said[boxes[-1].end() :])
    hashes = _HASHES.findall(said)
    if hashes:
        return hashes[-1].strip() or None
    lines = said.strip().splitlines()
    if not lines:
        return None
    line = lines[-1].replace("**", "").strip()
    announced = _ANNOUNCED.fullmatch(line)
    return (announced.group(1) if announced else line).strip() or None


def _boxed(text: str) -> str | None:
    """Return what a box holds, given what follows its command."""
    rest = text.lstrip()
    if rest.startswith("{"):
        return up_to_partner(rest)
    word = _UNBRACED.match(rest)
    return word.group().rstrip(".,;") or None if word else None


def up_to_partner(text: str) -> str | None:
    """Return what stands between the brace that `text` begins with and its partner; None if that is nothing."""
    depth, is_escaped = 0, False
    for index, character in enumerate(text):
        if is_escaped:
            is_escaped = False
        elif character == "\\":
            is_escaped = True  # `\{` is a brace to look at, not one to count
        elif character == "{":
            depth += 1
        elif character == "}":
            depth -= 1
            if depth == 0:
                return text[1:index].strip() or None
    return None
