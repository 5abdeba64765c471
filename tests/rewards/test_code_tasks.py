import base64
import json
import pickle
import zlib
from pathlib import Path

import pytest

from effopd.errors import DataError
from effopd.rewards.code import judge
from effopd.rewards.code_tasks import CodeTask, humaneval, mbpp, stdio

SMALL = [json.loads(line) for line in Path(__file__).with_name("humaneval_small.jsonl").read_text().splitlines()]


def is_passed(response: str, task: CodeTask) -> bool:
    return judge(response, json.loads(json.dumps(task.tests))).is_passed


@pytest.mark.parametrize("row", SMALL, ids=[row["task_id"] for row in SMALL])
def test_reference_solutions_pass_as_a_body_and_as_a_whole(row: dict) -> None:
    task = humaneval(row)
    assert task.prompt == row["prompt"]
    assert is_passed(row["canonical_solution"], task)
    assert is_passed(f"Here:\n```python\n{row['prompt']}{row['canonical_solution']}```", task)


@pytest.mark.parametrize("row", SMALL, ids=[row["task_id"] for row in SMALL])
def test_a_prompt_without_a_solution_does_not_pass(row: dict) -> None:
    assert not is_passed(row["prompt"], humaneval(row))
    assert not is_passed("", humaneval(row))


def plus_row(solution: str, inputs: list, atol: float = 0) -> dict[str, object]:
    return {
        "prompt": "def f(x):\n    pass\n",
        "entry_point": "f",
        "canonical_solution": solution,
        "base_input": inputs,
        "plus_input": [],
        "atol": atol,
    }


@pytest.mark.parametrize(
    ("expected", "atol", "given", "is_right"),
    [
        ("0.5", 0, "0.5 + 1e-7", True),
        ("0.5", 0, "0.5 + 1e-5", False),
        ("0.5", 1e-4, "0.5 + 1e-5", True),
        ("[0.5, 1.5]", 0, "[0.5, 1.5 + 1e-7]", True),
        ("[0.5, 1.5]", 0, "(0.5, 1.5 + 1e-7)", False),
        ("[0.5, 1.5]", 0, "[0.5]", False),
        ("[0.5, 1.5]", 0, "[0.5, '1.5']", False),
        ("1", 0, "1.0", True),
        ("1", 0, "1 + 1e-9", False),
        ("(1, 2)", 0, "[1, 2]", False),
        ("None", 0, "0", False),
        ("float('inf')", 0, "float('inf')", True),
        ("float('inf')", 0, "1e308", False),
        ("1e300", 0, "float('inf')", False),
        ("'a'", 1e-6, "'b'", False),
    ],
)
def test_outputs_are_compared_as_evalplus_does(expected: str, atol: float, given: str, is_right: bool) -> None:
    task = humaneval(plus_row(f"    return {expected}", [[1]], atol))
    assert is_passed(f"def f(x):\n    return {given}", task) == is_right


def test_a_program_that_changes_its_arguments_does_not_change_the_references() -> None:
    task = humaneval(plus_row("    return sum(x)", [[[1, 2, 3]]]))
    assert is_passed("def f(x):\n    total = sum(x)\n    x.clear()\n    return total", task)
    assert not is_passed("def f(x):\n    x.clear()\n    return 0", task)


MBPP = {
    "task_id": 1,
    "text": "Write a function to add.",
    "code": "def add(a, b):\n    return a + b",
    "test_setup_code": "",
    "test_list": ["assert add(1, 2) == 3", "assert add((1,), (2,)) == (1, 2)"],
    "challenge_test_list": [],
}


def test_an_mbpp_row_is_judged_by_its_asserts_and_shows_them() -> None:
    task = mbpp(MBPP)
    assert task.prompt.startswith("Write a function to add.") and MBPP["test_list"][1] in task.prompt
    assert is_passed(MBPP["code"], task)
    assert not is_passed("def add(a, b): return 3", task)


def test_a_sanitized_mbpp_row_has_a_prompt_and_imports() -> None:
    row: dict = {"prompt": "Return pi.", "code": "def pi(): return 3.14159265", "test_imports": ["import math"]}
    task = mbpp({**row, "test_list": ["assert math.isclose(pi(), math.pi, rel_tol=1e-6)"]})
    assert task.prompt.startswith("Return pi.") and is_passed(row["code"], task)
    assert is_passed(row["code"], mbpp({**row, "test_imports": [], "test_list": ["assert 3 < pi() < 4"]}))


def test_an_mbpp_function_may_have_the_name_of_a_builtin() -> None:
    row = {**MBPP, "code": "def sum(a, b): return a + b", "test_list": ["assert sum(10, 15) == 25"]}
    assert is_passed(row["code"], mbpp(row)) and not is_passed("def sum(a, b): return 0", mbpp(row))


def test_tests_can_make_objects_of_the_programs_classes_and_use_them() -> None:
    code = (
        "class Node:\n    def __init__(self, value):\n        self.value = value\n        self.next = None\n"
        "    def double(self):\n        return 2 * self.value\n    def __len__(self):\n        return 7\n"
        "def total(node):\n    return node.value + (total(node.next) if node.next else 0)"
    )
    setup = "root = Node(1)\nroot.next = Node(2)\nroot.next.next = Node(4)"
    tests = [
        "assert total(root) == 7",
        "assert root.next.value == 2",
        "assert root.double() == 2",
        "assert len(root) == 7",
    ]
    row = {**MBPP, "code": code, "test_setup_code": setup, "test_list": tests}
    assert is_passed(code, mbpp(row))
    assert not is_passed(code.replace("2 * self.value", "3 * self.value"), mbpp(row))


def test_what_a_function_returns_has_no_methods_that_could_answer_for_the_tests() -> None:
    row = {**MBPP, "code": "def text(): return 'right'", "test_list": ["assert text().startswith('right')"]}
    liar = "class Liar:\n    def startswith(self, other):\n        return True\ndef text(): return Liar()"
    assert is_passed(row["code"], mbpp(row)) and not is_passed(liar, mbpp(row))


def test_types_and_imports_of_the_solution_can_be_used_in_tests() -> None:
    code = "import math\ndef keep(xs, kind): return [x for x in xs if isinstance(x, kind)]"
    row = {**MBPP, "code": code, "test_list": ["assert keep([1, 'a', math.pi], float) == [math.pi]"]}
    assert is_passed(code, mbpp(row))


def mbpp_plus(number: int, entry_point: str, solution: str, inputs: list) -> CodeTask:
    return mbpp(
        {
            "task_id": f"Mbpp/{number}",
            "prompt": '"""\nWrite it.\n"""\n',
            "entry_point": entry_point,
            "canonical_solution": solution,
            "base_input": inputs,
            "plus_input": {},
            "atol": 0,
        }
    )


@pytest.mark.parametrize(
    ("number", "arguments", "seen"),
    [
        (2, [[1], [2]], "((1,), (2,))"),
        (63, [[[1], [2]]], "([(1,), (2,)],)"),
        (75, [[[1]], 6], "([(1,)], 6)"),
        (106, [[1], [2]], "([1], (2,))"),
        (115, [[[1], []]], "([{1}, {}],)"),
        (124, ["1", "2j"], "(1.0, 2j)"),
        (250, [[1], 2], "((1,), 2)"),
        (252, ["(1+2j)"], "((1+2j),)"),
        (259, [[[1], [2]]], "(((1,), (2,)),)"),
        (278, [[1, [2]]], "((1, (2,)),)"),
        (580, [[1, [2, [3]]]], "((1, (2, (3,))),)"),
        (722, [{"a": [1]}, 2], "({'a': (1,)}, 2)"),
        (3, [[1]], "([1],)"),
    ],
)
def test_mbpp_plus_arguments_get_the_types_that_json_lost(number: int, arguments: list, seen: str) -> None:
    task = mbpp_plus(number, "f", f"def f(*arguments): return {seen!r}", [arguments])
    assert is_passed("def f(*arguments): return str(arguments)", task)


@pytest.mark.parametrize(
    ("entry_point", "solution", "response", "is_right"),
    [
        ("Diff", "def Diff(x): return [1, 2]", "def Diff(x): return [2, 1, 1]", True),
        ("Diff", "def Diff(x): return [1, 2]", "def Diff(x): return [2]", False),
        ("Diff", "def Diff(x): return [1, 2]", "def Diff(x): return None", False),
        ("f", "def f(x): return [1, 2]", "def f(x): return [2, 1]", False),
        ("check_str", "def check_str(x): return True", "import re\ndef check_str(x): return re.match('', '')", True),
        ("check_str", "def check_str(x): return True", "def check_str(x): return None", False),
        ("are_equivalent", "def are_equivalent(x): return True", "def are_equivalent(x): return False", True),
        ("are_equivalent", "def are_equivalent(x): return True", "def are_equivalent(x): return 'no'", False),
        ("sum_div", "def sum_div(x): return 9", "def sum_div(x): return 0", True),
        ("sum_div", "def sum_div(x): return 9", "def sum_div(x): return 1", False),
    ],
)
def test_mbpp_plus_tasks_with_several_right_outputs(
    entry_point: str, solution: str, response: str, is_right: bool
) -> None:
    assert is_passed(response, mbpp_plus(999, entry_point, solution, [[1]])) == is_right


PLUS_TEXT = """
import numpy as np
from math import inf

def is_floats(x) -> bool:
    if isinstance(x, float):
        return True
    return isinstance(x, (list, tuple)) and all(isinstance(i, float) for i in x)

def assertion(out, exp, atol):
    if atol == 0 and is_floats(exp):
        atol = 1e-6
    if out != exp:
        np.testing.assert_allclose(out, exp, atol=atol)
"""
HUB_HUMANEVAL = {
    "task_id": "HumanEval/900",
    "prompt": "def add(a, b):\n    pass\n",
    "entry_point": "add",
    "canonical_solution": "    return a + b\n",
    "test": PLUS_TEXT
    + """
def check(candidate):
    inputs = [[1, -2], [0.1, 0.2], [(1,), (2,)], [inf, 1]]
    results = [-1, 0.3, (1, 2), inf]
    for i, (inp, exp) in enumerate(zip(inputs, results)):
        assertion(candidate(*inp), exp, 0)
""",
}
HUB_MBPP = {
    "task_id": 900,
    "prompt": "Write a function to add.",
    "code": "def add(a, b):\n    return a + b",
    "test_imports": [],
    "test_list": ["assert add(1, 2) == 3"],
    "test": PLUS_TEXT
    + """
inputs = [[1.5, 2], ((1,), (2,)), [1, 2j - 1]]
results = [3.5, (1, 2), 2j]
for i, (inp, exp) in enumerate(zip(inputs, results)):
    assertion(add(*inp), exp, 0.5)
""",
}


def test_rows_of_the_hubs_humaneval_plus_are_judged_by_their_plus_tests_without_numpy() -> None:
    task = humaneval(HUB_HUMANEVAL)
    assert is_passed("    return a + b", task)
    assert is_passed("def add(a, b):\n    return a + b + (1e-9 if a == 0.1 else type(a)())", task)
    assert not is_passed("def add(a, b):\n    return a + b if a != (1,) else None", task)


def test_rows_of_the_hubs_mbpp_plus_are_judged_by_more_than_mbpp_s_tests() -> None:
    task = mbpp(HUB_MBPP)
    assert task.prompt == '"""\nWrite a function to add.\nassert add(1, 2) == 3\n"""\n'
    assert is_passed(HUB_MBPP["code"], task)
    assert is_passed("def add(a, b):\n    return a + b if isinstance(a, tuple) else a + b + 0.25", task)
    assert not is_passed("def add(a, b): return 3", task)
    assert is_passed("def add(a, b): return 3", mbpp({**HUB_MBPP, "test": None}))


def test_a_task_of_the_hubs_that_compares_with_a_reference_is_read_as_well() -> None:
    text = (
        PLUS_TEXT
        + """
def ref_func(a, b):
    return a + b

def check(candidate):
    inputs = [[1, 2], [3, 4]]
    for i, inp in enumerate(inputs):
        assertion(candidate(*inp), ref_func(*inp), 0)
"""
    )
    task = humaneval({**HUB_HUMANEVAL, "test": text})
    assert is_passed("    return a + b", task) and not is_passed("    return 3", task)


def test_a_polynomials_root_is_judged_by_its_value_in_the_hubs_form_too() -> None:
    prompt = "def poly(xs, x):\n    return xs[0] + xs[1] * x\n\ndef find_zero(xs):\n    pass\n"
    text = """
import math
def _poly(xs, x):
    return sum(coeff * math.pow(x, i) for i, coeff in enumerate(xs))

def check(candidate):
    inputs = [[[1, 2]], [[-6, 3]]]
    results = [-0.5, 2.0]
    for i, (inp, exp) in enumerate(zip(inputs, results)):
        assert _poly(*candidate(*inp), inp) <= 0.0001
"""
    row = {
        "prompt": prompt,
        "entry_point": "find_zero",
        "canonical_solution": "    return -xs[0] / xs[1]\n",
        "test": text,
    }
    assert is_passed("    return -xs[0] / xs[1] + 1e-6", humaneval(row))
    assert not is_passed("    return 2.0", humaneval(row))


CASES = {"inputs": ["1 2\n", "3 4\n"], "outputs": ["3\n", "7\n"]}
ADD = "print(sum(map(int, input().split())))"


def packed(cases: list) -> str:
    """Return cases as LiveCodeBench keeps its private ones."""
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(cases)))).decode()


def live_code_bench(kind: str = "stdin", **others: object) -> dict[str, object]:
    cases = [
        {"input": stdin, "output": stdout, "testtype": kind}
        for stdin, stdout in zip(CASES["inputs"], CASES["outputs"], strict=True)
    ]
    return {
        "question_content": "Add.",
        "starter_code": "",
        "public_test_cases": json.dumps(cases[:1]),
        "private_test_cases": packed(cases[1:]),
        "metadata": "{}",
        **others,
    }


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": [{"role": "system", "content": "?"}, {"role": "user", "content": "Add."}],
         "reward_model": {"style": "rule", "ground_truth": json.dumps(CASES)}},
        {"question": "Add.", "input_output": json.dumps(CASES), "starter_code": ""},
        {"question": "Add.", "input_output": {"inputs": [["1 2"], ["3 4"]], "outputs": [["3"], ["7"]]}},
        live_code_bench(),
        live_code_bench(private_test_cases=json.dumps([{"input": "3 4", "output": "7", "testtype": "stdin"}])),
    ],
    ids=["verl", "taco", "lists of lines", "livecodebench", "livecodebench, private cases as JSON"],
)  # fmt: skip
def test_programs_are_judged_by_their_output(row: dict) -> None:
    task = stdio(row)
    assert task.prompt == "Add." and task.tests["kind"] == "stdio"
    assert len(task.tests["inputs"]) == 2  # pyright: ignore[reportArgumentType]
    assert is_passed(ADD, task) and not is_passed("print(3)", task)


def test_functions_of_apps_rows_are_called() -> None:
    cases = {"fn_name": "add", "inputs": [[1, 2], [[3], [4]], ["a", "b"]], "outputs": [[3], [[3, 4]], ["ab"]]}
    task = stdio({"question": "Add.", "input_output": json.dumps(cases), "starter_code": "def add(a, b):"})
    assert "def add(a, b):" in task.prompt
    assert is_passed("def add(a, b): return a + b", task) and not is_passed("def add(a, b): return a", task)


def test_functions_of_livecodebench_rows_are_called_and_their_results_are_not_unwrapped() -> None:
    cases = [{"input": '[1, 2]\n"x"', "output": '["x"]', "testtype": "functional"}]
    row = live_code_bench(
        public_test_cases=json.dumps(cases), private_test_cases=packed(cases), metadata='{"func_name": "pick"}'
    )
    source = "class Solution:\n    def pick(self, xs: List[int], s: str) -> List[str]:\n        return {}"
    assert is_passed(source.format("[s]"), stdio(row))
    assert is_passed(source.format("(s,)"), stdio(row))
    assert not is_passed(source.format("s"), stdio(row))


def test_a_pickle_that_would_run_something_is_read_and_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "ran",))

    trap = base64.b64encode(zlib.compress(pickle.dumps(Trap()))).decode()
    with pytest.raises(DataError, match="private_test_cases"):
        stdio(live_code_bench(private_test_cases=trap))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("make", "row", "field"),
    [
        (humaneval, {}, "prompt"),
        (humaneval, {"prompt": "def f(x):\n", "test": ""}, "entry_point"),
        (humaneval, {"prompt": "def f(x):\n", "entry_point": 3}, "entry_point"),
        (humaneval, {"prompt": "def f(x):\n", "entry_point": "f"}, "test"),
        (humaneval, {"prompt": "def f(", "entry_point": "f", "test": "def check(c): pass"}, "prompt"),
        (humaneval, {"prompt": "def f(x):\n", "entry_point": "f", "test": "def check("}, "test"),
        (humaneval, {"prompt": "def f(x):\n", "entry_point": "f", "test": "import numpy as np"}, "eval.sets.<name>.path="),
        (humaneval, {**HUB_HUMANEVAL, "test": PLUS_TEXT}, "HumanEvalPlus.jsonl.gz"),
        (humaneval, {**HUB_HUMANEVAL, "test": HUB_HUMANEVAL["test"].replace("-2]", "open('x')]")}, "plain values"),
        (humaneval, {**HUB_HUMANEVAL, "test": HUB_HUMANEVAL["test"] + "("}, "HumanEvalPlus.jsonl.gz"),
        (mbpp, {**HUB_MBPP, "test": "assert add(1, 2) == 3"}, "MbppPlus.jsonl.gz"),
        (mbpp, {**HUB_MBPP, "test": "inputs = []\nfor inp in inputs:\n    assertion(add(*inp), 3, 0)"}, "not empty"),
        (humaneval, {"prompt": "def f(x):\n", "entry_point": "f", "test": "from scipy.stats import norm"}, "scipy"),
        (humaneval, {**SMALL[3], "canonical_solution": None}, "canonical_solution"),
        (humaneval, {**SMALL[3], "canonical_solution": "    return ("}, "canonical_solution"),
        (humaneval, {**SMALL[3], "base_input": [1]}, "base_input"),
        (humaneval, {**SMALL[3], "base_input": [], "plus_input": []}, "base_input"),
        (humaneval, {**SMALL[3], "atol": "0"}, "atol"),
        (mbpp, {**MBPP, "text": None}, "prompt"),
        (mbpp, {**MBPP, "test_list": []}, "test_list"),
        (mbpp, {**MBPP, "test_list": ["assert"]}, "test_list"),
        (mbpp, {**MBPP, "test_list": ["assert 1 == 1"]}, "test_list"),
        (mbpp, {**MBPP, "code": None}, "code"),
        (mbpp, {**MBPP, "test_setup_code": 3}, "test_setup_code"),
        (mbpp, {**SMALL[3], "task_id": "Small/x"}, "task_id"),
        (mbpp, {**SMALL[3], "task_id": "Mbpp/124", "base_input": [["one", "two"]]}, "base_input"),
        (stdio, {"prompt": "?"}, "input_output"),
        (stdio, {"prompt": 3, "input_output": CASES}, "prompt"),
        (stdio, {"prompt": [], "input_output": CASES}, "prompt"),
        (stdio, {"prompt": "?", "input_output": "{"}, "input_output"),
        (stdio, {"prompt": "?", "input_output": {"inputs": ["1"], "outputs": []}}, "input_output"),
        (stdio, {"prompt": "?", "input_output": {"inputs": [1], "outputs": ["1"]}}, "input_output"),
        (stdio, {"prompt": "?", "input_output": {**CASES, "fn_name": "a b"}}, "fn_name"),
        (stdio, {"prompt": "?", "input_output": {"fn_name": "f", "inputs": [1], "outputs": [1]}}, "input_output"),
        (stdio, {"prompt": "?", "reward_model": {}}, "reward_model"),
        (stdio, live_code_bench(private_test_cases="!"), "private_test_cases"),
        (stdio, live_code_bench(public_test_cases="[]", private_test_cases=""), "public_test_cases"),
        (stdio, live_code_bench(kind="functional"), "metadata"),
        (stdio, live_code_bench(kind="other"), "testtype"),
    ],
)  # fmt: skip
def test_a_bad_row_is_an_error_that_names_the_field(make, row: dict, field: str) -> None:
    with pytest.raises(DataError, match=field):
        make(row)
