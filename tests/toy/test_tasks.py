"""The toy tasks, their tokenizer and their verifiers."""

import random
import subprocess
import sys
from itertools import islice

import pytest

from effopd.toy import verify
from effopd.toy.slips import SLIPS, unreliable_solutions
from effopd.toy.tasks import (
    GENERATORS,
    MAX_SOLUTION_CHARS,
    SOLVERS,
    SPLITS,
    answer_of,
    problems,
    solve_programs,
    solve_sums,
    split_of,
)
from effopd.toy.tokenizer import CHARACTERS, EOS_TOKEN_ID, PAD_TOKEN_ID, UNKNOWN_TOKEN_ID, build_tokenizer

TASKS = sorted(GENERATORS)
VERIFIERS = {"sums": verify.sums, "programs": verify.programs}
JUNK = ["", ",", ",,,", " ", "\n", "=", "=" * 10_000, "\x00", "é٣", "\ud800", "<eos>", "NaN", "1e3", "[", "abc:RDU="]

each_task = pytest.mark.parametrize("task", TASKS)


def test_running_sums_are_written_out():
    # 12 + 34 = 46; 46 + 56 = 102; 102 + 78 = 180
    assert solve_sums("12+34+56+78=") == "46,102,180"


def test_a_program_is_traced_operation_by_operation():
    # abc reversed is cba, doubled cbacba, ends exchanged abaccb -> a|bacb|c, upper-cased
    assert solve_programs("abc:RDSU=") == "cba,cbacba,abacbc,ABACBC"


def test_swapping_two_letters_exchanges_them():
    assert solve_programs("ab:S=") == "ba"


def test_a_slip_in_a_sum_is_carried_on():
    # 46 is written as 47; 47 + 56 = 103, written 104; 104 + 78 = 182, written 183
    assert solve_sums("12+34+56+78=", lambda step: str(int(step) + 1)) == "47,104,183"


def test_a_slip_in_a_program_is_carried_on():
    # cb is written as xb; doubled xbxb, written xbxb with its first letter replaced again
    assert solve_programs("bc:RD=", lambda step: "x" + step[1:]) == "xb,xbxb"


@pytest.mark.parametrize("prompt", ["", "12+34+56+78", "12+34+56=", "1+34+56+78=", "02+34+56+78=", "12+34+56+78=\n"])
def test_other_text_than_four_terms_is_not_a_sum(prompt: str):
    with pytest.raises(ValueError, match="not a `sums` prompt"):
        solve_sums(prompt)


@pytest.mark.parametrize("prompt", ["", "abc:=", "a:R=", "abc:X=", "abd:R=", "ABC:R=", "abc:R", "abc:R=\n"])
def test_other_text_than_letters_and_operations_is_not_a_program(prompt: str):
    with pytest.raises(ValueError, match="not a `programs` prompt"):
        solve_programs(prompt)


@each_task
def test_answer_is_the_last_field_of_the_solution(task: str):
    for problem in problems(task, "train", 200, 0):
        assert problem.solution == SOLVERS[task](problem.prompt, lambda step: step)
        assert problem.answer == problem.solution.split(",")[-1]


@each_task
def test_solutions_stay_within_the_stated_length(task: str):
    lengths = [len(problem.solution) for problem in problems(task, "train", 5000, 0)]
    # The bound is met, so it could not be lower.
    assert max(lengths) == MAX_SOLUTION_CHARS[task]


def test_prompts_of_sums_have_one_length():
    assert {len(problem.prompt) for problem in problems("sums", "train", 500, 0)} == {12}


def test_prompts_and_solutions_of_programs_differ_in_length():
    posed = problems("programs", "train", 500, 0)
    # 2 to 4 letters, a colon, 2 to 4 operations and an equals sign
    assert {len(problem.prompt) for problem in posed} == {6, 7, 8, 9, 10}
    assert len({len(problem.solution) for problem in posed}) > 15


@each_task
def test_same_arguments_give_the_same_problems(task: str):
    assert problems(task, "eval", 100, 3) == problems(task, "eval", 100, 3)


@each_task
def test_a_longer_list_begins_with_the_shorter_one(task: str):
    assert problems(task, "train", 100, 3)[:40] == problems(task, "train", 40, 3)


@each_task
def test_another_seed_gives_other_problems(task: str):
    assert problems(task, "train", 20, 0) != problems(task, "train", 20, 1)


@each_task
def test_no_problem_comes_twice(task: str):
    prompts = [problem.prompt for problem in problems(task, "train", 5000, 0)]
    assert len(set(prompts)) == 5000


@each_task
def test_train_and_eval_are_disjoint_whatever_the_seeds(task: str):
    prompts = {
        split: {problem.prompt for seed in range(5) for problem in problems(task, split, 1000, seed)}
        for split in SPLITS
    }
    assert prompts["train"].isdisjoint(prompts["eval"])


def test_the_split_of_a_prompt_never_changes():
    # By sha256sum the first bytes are 0xd4 = 212, not a multiple of 8, and 0x88 = 136 = 17 * 8.
    assert split_of("12+34+56+70=") == "train"
    assert split_of("12+34+56+75=") == "eval"


def test_unknown_task_is_refused_with_the_choices():
    with pytest.raises(ValueError, match=r"'chess'.*sums, programs"):
        problems("chess", "train", 1, 0)


def test_unknown_split_is_refused_with_the_choices():
    with pytest.raises(ValueError, match=r"'test'.*train, eval"):
        problems("sums", "test", 1, 0)


def test_negative_number_of_problems_is_refused():
    with pytest.raises(ValueError, match="num is -1"):
        problems("sums", "train", -1, 0)


@each_task
def test_a_slip_always_changes_the_step(task: str):
    rng = random.Random(0)
    for problem in problems(task, "train", 300, 0):
        step = problem.solution.split(",")[0]
        assert SLIPS[task](step, rng) != step


@each_task
def test_unreliable_solutions_are_as_long_as_reliable_ones(task: str):
    pairs = unreliable_solutions(task, 0.9, random.Random(0))
    assert max(len(solution) for _, solution in islice(pairs, 3000)) <= MAX_SOLUTION_CHARS[task]


@each_task
def test_unreliable_solutions_are_of_training_prompts(task: str):
    pairs = unreliable_solutions(task, 0.5, random.Random(0))
    assert {split_of(prompt) for prompt, _ in islice(pairs, 500)} == {"train"}


def test_share_of_right_unreliable_sums_is_that_of_three_steps_without_a_slip():
    pairs = unreliable_solutions("sums", 0.25, random.Random(0))
    num_right = sum(solve_sums(prompt) == solution for prompt, solution in islice(pairs, 4000))
    # 0.75^3 = 0.422; one standard error of 4000 draws is 0.0078, four are 0.031.
    assert num_right / 4000 == pytest.approx(0.422, abs=0.031)


@each_task
def test_every_solution_is_accepted(task: str):
    for problem in problems(task, "eval", 1000, 0):
        assert VERIFIERS[task](problem.solution, problem.answer, {"prompt": problem.prompt}) == 1.0


@each_task
def test_a_slip_in_the_answer_is_rejected(task: str):
    rng = random.Random(0)
    for problem in problems(task, "eval", 1000, 0):
        wrong = problem.solution.removesuffix(problem.answer) + SLIPS[task](problem.answer, rng)
        assert VERIFIERS[task](wrong, problem.answer, {"prompt": problem.prompt}) == 0.0


@each_task
def test_a_cut_off_or_continued_solution_is_rejected(task: str):
    for problem in problems(task, "eval", 200, 0):
        for response in (problem.solution[:-1], problem.solution + ",", problem.solution + "0", problem.solution + " "):
            assert VERIFIERS[task](response, problem.answer, {"prompt": problem.prompt}) == 0.0


@each_task
@pytest.mark.parametrize("response", JUNK)
def test_junk_is_rejected_without_an_exception(task: str, response: str):
    problem = problems(task, "eval", 1, 0)[0]
    assert VERIFIERS[task](response, problem.answer, {"prompt": problem.prompt}) == 0.0


def test_programs_are_run_rather_than_compared_with_the_stored_answer():
    assert verify.programs("ba", "wrong", {"prompt": "ab:R="}) == 1.0
    assert verify.programs("wrong", "wrong", {"prompt": "ab:R="}) == 0.0


def test_a_prompt_that_is_no_program_is_an_error_of_the_data():
    with pytest.raises(ValueError, match="not a `programs` prompt"):
        verify.programs("ba", "ba", {"prompt": "12+34+56+78="})


def test_only_the_last_field_is_judged():
    assert answer_of("1,2,180") == answer_of("180") == "180"


def test_tasks_and_verifiers_load_without_torch():
    code = "import sys, effopd.toy.verify, effopd.toy.slips; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@each_task
def test_text_survives_the_tokenizer_exactly(task: str):
    tokenizer = build_tokenizer()
    for problem in problems(task, "train", 300, 0):
        token_ids = tokenizer(problem.prompt + problem.solution).input_ids
        # One token a character, none of them unknown, and none added.
        assert len(token_ids) == len(problem.prompt + problem.solution)
        assert UNKNOWN_TOKEN_ID not in token_ids
        assert tokenizer.decode(token_ids) == problem.prompt + problem.solution


def test_prompt_and_response_tokenize_apart_as_together():
    tokenizer = build_tokenizer()
    apart = tokenizer("12+34+56+78=").input_ids + tokenizer("46,102,180").input_ids
    assert apart == tokenizer("12+34+56+78=46,102,180").input_ids


def test_a_character_outside_the_alphabet_is_one_unknown_token():
    tokenizer = build_tokenizer()
    assert tokenizer("1 \né2").input_ids == [
        tokenizer.convert_tokens_to_ids("1"),
        UNKNOWN_TOKEN_ID,
        UNKNOWN_TOKEN_ID,
        UNKNOWN_TOKEN_ID,
        tokenizer.convert_tokens_to_ids("2"),
    ]


def test_special_tokens_have_the_stated_ids():
    tokenizer = build_tokenizer()
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (
        PAD_TOKEN_ID,
        EOS_TOKEN_ID,
        UNKNOWN_TOKEN_ID,
    )
    assert tokenizer.bos_token_id is None


def test_vocabulary_is_the_special_tokens_and_the_alphabet():
    # 3 special tokens; 10 digits, 4 signs, 4 operations, 20 lower-case and 20 upper-case letters
    assert len(build_tokenizer()) == 3 + len(CHARACTERS) == 3 + 10 + 4 + 4 + 20 + 20


def test_no_character_stands_in_the_alphabet_twice():
    assert len(set(CHARACTERS)) == len(CHARACTERS)
