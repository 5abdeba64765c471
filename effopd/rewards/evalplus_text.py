"""EvalPlus's sets as the hub has them: HumanEval's and MBPP's columns, and all plus tests as one program in `test`.

That program needs numpy, which the sandbox has not, and compares where the answer runs. But its inputs are a literal, and with
the reference solution of the row they are all that a task needs, so the rest of it is not used. It is read, never executed.
The form is that of `tools/humaneval/to_original_fmt.py` and `tools/mbpp/to_original_fmt.py` of EvalPlus 0.3.
"""

import ast
import re
from dataclasses import dataclass

from effopd.errors import DataError

_REMEDY = (
    "read EvalPlus's release file instead: eval.sets.<name>.path=HumanEvalPlus.jsonl.gz or MbppPlus.jsonl.gz, "
    "from the releases of evalplus/humanevalplus_release and evalplus/mbppplus_release"
)
_LITERALS = (
    ast.List,
    ast.Tuple,
    ast.Set,
    ast.Dict,
    ast.Constant,
    ast.UnaryOp,
    ast.UAdd,
    ast.USub,
    ast.BinOp,  # complex numbers
    ast.Add,
    ast.Sub,
    ast.Load,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlusTests:
    """What a task needs of the program."""

    function: str
    """Whom it calls: the solution in MBPP+, `candidate` in HumanEval+."""
    inputs: str
    """A Python literal that may use `inf` and `nan`: a list with one list or tuple of arguments per test."""
    atol: float


def is_plus_text(test: str) -> bool:
    """Return whether a `test` that may be HumanEval's own is one of EvalPlus's."""
    return re.search(r"^ *inputs = \[", test, flags=re.MULTILINE) is not None or "import numpy" in test


def read_plus_text(test: str) -> PlusTests:
    """Return what the program in `test` calls and with what. Raises DataError, with a remedy, when it has another form."""
    try:
        tree = ast.parse(test)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise DataError(f"field 'test' is not Python ({error}); {_REMEDY}") from error
    nodes = list(ast.walk(tree))
    inputs = [node.value for node in nodes if isinstance(node, ast.Assign) and _is_name(node.targets[0], "inputs")]
    calls = [node for node in nodes if isinstance(node, ast.Call) and _is_on_one_input(node)]
    # `function(*inp)` comes first in the walk; a call of the reference, `ref_func(*inp)`, stands beside it and follows.
    function = calls[0].func if calls else None
    atol = _tolerance(nodes)
    if len(inputs) != 1 or not isinstance(function, ast.Name) or atol is None:
        raise DataError(
            f"field 'test' is no program of EvalPlus's, with inputs = [...] and a loop over them; {_REMEDY}"
        )
    (rows,) = inputs
    if (
        not isinstance(rows, ast.List)
        or not rows.elts
        or not all(isinstance(row, ast.List | ast.Tuple) for row in rows.elts)
    ):
        raise DataError(f"field 'test': inputs must be a list of argument lists, not empty; {_REMEDY}")
    if not all(_is_literal(node) for node in ast.walk(rows)):
        raise DataError(f"field 'test': inputs must be plain values; {_REMEDY}")
    return PlusTests(function=function.id, inputs=ast.unparse(rows), atol=atol)


def _is_name(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _is_on_one_input(call: ast.Call) -> bool:
    return len(call.args) == 1 and isinstance(call.args[0], ast.Starred) and _is_name(call.args[0].value, "inp")


def _tolerance(nodes: list[ast.AST]) -> float | None:
    """Return the number in `assertion(..., ..., 1e-6)`, or in `assert ... <= 1e-4`; None when there is neither."""
    for node in nodes:
        if isinstance(node, ast.Call) and _is_name(node.func, "assertion") and len(node.args) == 3:
            bound = node.args[2]
        elif (
            isinstance(node, ast.Assert)
            and isinstance(node.test, ast.Compare)
            and isinstance(node.test.ops[0], ast.LtE)
        ):
            bound = node.test.comparators[0]
        else:
            continue
        if isinstance(bound, ast.Constant) and isinstance(bound.value, int | float):
            return bound.value
    return None


def _is_literal(node: ast.AST) -> bool:
    return isinstance(node, _LITERALS) or _is_name(node, "inf") or _is_name(node, "nan")
