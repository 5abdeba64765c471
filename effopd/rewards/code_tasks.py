"""Rows of code data sets as tasks: the text to show the model, and the tests, as plain values, for `rewards/code.py`.

One function per family of formats, from the row's columns to a CodeTask. Nothing is executed here. Every function raises
DataError naming the field that is missing or wrong.
"""

import ast
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from effopd.errors import DataError
from effopd.rewards.evalplus import Oracle, humaneval_oracle, mbpp_arguments, mbpp_oracle
from effopd.rewards.evalplus_text import is_plus_text, read_plus_text
from effopd.rewards.stdio_rows import read_cases

_QUESTIONS = ("prompt", "question_content", "question", "problem")


@dataclass(frozen=True, slots=True)
class CodeTask:
    """One task: `tests` goes to the verifier as `metadata["code_tests"]` and survives JSON."""

    prompt: str
    tests: dict[str, object]


def humaneval(values: Mapping[str, object]) -> CodeTask:
    """Return the task of a HumanEval row (`test`), or of a HumanEval+ row: EvalPlus's own (`base_input`, `plus_input`,
    `atol`) or the hub's (`test` with the plus tests), which are the same task.

    The prompt is the head of a function: its body alone is as good a response as the whole function.
    """
    prompt, entry_point = text_field(values, "prompt"), text_field(values, "entry_point")
    if values.get("base_input") is not None:
        oracle = humaneval_oracle(entry_point, prompt, text_field(values, "canonical_solution"))
        return CodeTask(prompt, _against_reference(entry_point, oracle, _inputs(values), _atol(values), _stub(prompt)))
    test = text_field(values, "test")
    if is_plus_text(test):
        plus = read_plus_text(test)
        oracle = humaneval_oracle(entry_point, prompt, text_field(values, "canonical_solution"))
        return CodeTask(prompt, _against_reference(entry_point, oracle, plus.inputs, plus.atol, _stub(prompt)))
    source = f"{test}\n\ncheck({entry_point})\n"
    _parse(source, "test")
    return CodeTask(prompt, _asserts(source, [entry_point], [], _stub(prompt)))


def mbpp(values: Mapping[str, object]) -> CodeTask:
    """Return the task of an MBPP row (`test_list`; full or sanitized), or of an MBPP+ row: EvalPlus's own (`base_input`,
    `plus_input`) or the hub's (`test`, beside the `test_list` of MBPP), which are the same task.

    The prompt of an MBPP row shows its tests, as in the paper (arXiv:2108.07732, section 3.1): they name the function. That of
    an MBPP+ row shows the first of them, as EvalPlus has it.
    """
    if values.get("base_input") is not None:
        entry_point = text_field(values, "entry_point")
        number = text_field(values, "task_id").rpartition("/")[2]
        if not number.isdecimal():
            raise DataError(f"field 'task_id' is {values['task_id']!r}; an MBPP+ row has Mbpp/ and a number")
        oracle = mbpp_oracle(entry_point, text_field(values, "canonical_solution"))
        try:
            inputs = mbpp_arguments(int(number), _input_lists(values))
        except (TypeError, ValueError, IndexError, AttributeError) as error:
            raise DataError(f"field 'base_input' or 'plus_input' does not fit task {number}: {error}") from error
        tests = _against_reference(entry_point, oracle, repr(inputs), _atol(values), "")
        return CodeTask(text_field(values, "prompt"), tests)
    if values.get("test") is not None:
        return _mbpp_plus_of_the_hub(values)
    tests = _texts(values, "test_list")
    imports = _texts(values, "test_imports") if values.get("test_imports") else []
    setup = text_field(values, "test_setup_code") if values.get("test_setup_code") else "\n".join(imports)
    text = text_field(values, "text" if values.get("text") is not None else "prompt")
    source = "\n".join([setup, *tests])
    names = _names(_parse(source, "test_list"), _parse(text_field(values, "code"), "code"))
    if not names.functions and not names.types:
        raise DataError("field 'test_list' uses no name that field 'code' defines; so there is nothing to test")
    source = "\n".join([*names.imports, source])
    prompt = text + "\nYour code should pass these tests:\n\n" + "\n".join(tests) + "\n"
    return CodeTask(prompt, _asserts(source, names.functions, names.types, ""))


def _mbpp_plus_of_the_hub(values: Mapping[str, object]) -> CodeTask:
    plus = read_plus_text(text_field(values, "test"))
    oracle = mbpp_oracle(plus.function, text_field(values, "code"))
    prompt = f'"""\n{text_field(values, "prompt")}\n{_texts(values, "test_list")[0]}\n"""\n'
    return CodeTask(prompt, _against_reference(plus.function, oracle, plus.inputs, plus.atol, ""))


def _stub(prompt: str) -> str:
    """Return the head of a function as Python that runs: without a docstring it has no body yet."""
    try:
        ast.parse(prompt)
    except SyntaxError:
        prompt = f"{prompt.rstrip()}\n    pass\n"
    _parse(prompt, "prompt")
    return prompt


def _asserts(source: str, functions: list[str], types: list[str], prompt: str) -> dict[str, object]:
    return {
        "kind": "asserts",
        "source": source,
        "functions": functions,
        "types": types,
        "prompt": prompt,
    }


def _against_reference(entry_point: str, oracle: Oracle, inputs: str, atol: float, prompt: str) -> dict[str, object]:
    """Return tests by a reference solution on `inputs`, a Python literal: a list of lists of arguments."""
    for source in oracle.references:
        _parse(source, "canonical_solution")
    return {
        "kind": "reference",
        "entry_point": entry_point,
        "references": oracle.references,
        "comparison": oracle.comparison,
        "inputs": inputs,
        "atol": atol,
        "prompt": prompt,
    }


def _atol(values: Mapping[str, object]) -> float:
    atol = values.get("atol", 0)
    if isinstance(atol, bool) or not isinstance(atol, int | float):
        raise DataError(f"field 'atol' must be a number; it is {atol!r}")
    return atol


def _inputs(values: Mapping[str, object]) -> str:
    return repr(_input_lists(values))


def _input_lists(values: Mapping[str, object]) -> list[list]:
    """Return base and plus inputs, each a list of arguments; no plus inputs may be an empty dictionary, as in Mbpp/793."""
    inputs = []
    for field in ("base_input", "plus_input"):
        rows = values.get(field) or []
        if not isinstance(rows, list) or not all(isinstance(arguments, list) for arguments in rows):
            raise DataError(f"field {field!r} must be a list of argument lists; it is {rows!r:.100}")
        inputs += rows
    if not inputs:
        raise DataError("field 'base_input' is empty; a task without tests would pass anything")
    return inputs


@dataclass(frozen=True, slots=True)
class _Names:
    """What tests take from a solution."""

    functions: list[str]
    types: list[str]
    imports: list[str]


def _names(tests: ast.Module, solution: ast.Module) -> _Names:
    """Return the functions, classes and imports of the reference solution that the tests use."""
    used = {node.id for node in ast.walk(tests) if isinstance(node, ast.Name)}
    functions: set[str] = set()
    types, imports = [], []
    for node in solution.body:
        if isinstance(node, ast.FunctionDef):
            functions.add(node.name)
        elif isinstance(node, ast.ClassDef) and node.name in used:
            types.append(node.name)
        elif isinstance(node, ast.Assign):
            functions |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.Import | ast.ImportFrom) and used & _bound(node):
            imports.append(ast.unparse(node))
    return _Names(sorted(functions & used), types, imports)


def _bound(node: ast.Import | ast.ImportFrom) -> set[str]:
    return {(alias.asname or alias.name).partition(".")[0] for alias in node.names}


def _parse(source: str, field: str) -> ast.Module:
    """Return the syntax tree of Python from a data file; only the standard library is there when it runs."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError) as error:
        raise DataError(f"field {field!r} is not Python: {error}") from error
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        for name in names:
            if name.partition(".")[0] not in sys.stdlib_module_names:
                raise DataError(f"field {field!r} imports {name}; the sandbox has the standard library only")
    return tree


def text_field(values: Mapping[str, object], field: str) -> str:
    """Return the text of a field. Raises DataError when it is missing or not text."""
    value = values.get(field)
    if not isinstance(value, str):
        found = (
            f"it is {value!r:.100}" if field in values else f"the row has {', '.join(map(str, values)) or 'no fields'}"
        )
        raise DataError(f"field {field!r} must be text; {found}")
    return value


def _texts(values: Mapping[str, object], field: str) -> list[str]:
    value = values.get(field)
    if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
        raise DataError(f"field {field!r} must be a list of texts; it is {value!r:.100}")
    return value


def stdio(values: Mapping[str, object]) -> CodeTask:
    """Return the task of a row with inputs and outputs: verl (Eurus-RL-Code), APPS, TACO, LiveCodeBench.

    A chat prompt counts as its last user message. Starter code, where the row has some, follows the prompt.
    """
    cases = read_cases(values)
    field = next((name for name in _QUESTIONS if values.get(name) is not None), "prompt")
    prompt = values.get(field)
    if isinstance(prompt, list):
        turns = [turn for turn in prompt if isinstance(turn, Mapping) and turn.get("role") == "user"]
        prompt = text_field(turns[-1], "content") if turns else None
    if not isinstance(prompt, str):
        raise DataError(f"field {field!r} must be text, or a chat with a message of the user; it is {prompt!r:.100}")
    starter_code = values.get("starter_code")
    if isinstance(starter_code, str) and starter_code.strip():
        prompt = f"{prompt}\n\nStart from this code:\n```python\n{starter_code}\n```\n"
    return CodeTask(prompt, cases.tests())
