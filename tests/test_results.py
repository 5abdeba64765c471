"""The numbers and files of an evaluation, from responses written here."""

import json
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import torch

from effopd.metrics import bootstrap_interval
from effopd.responses import SetInput, answer_extractor, normalise_answer, sample_set, with_reverse_kl
from effopd.result_files import results_table, write_results
from effopd.results import choices_of_k, evaluate_set, evaluate_sets
from effopd.types import (
    FinishReason,
    GenerateRequest,
    PolicyVersion,
    Prompt,
    Rollout,
    RolloutHandle,
    RolloutSummary,
    ScoredHandle,
)

VERSION = PolicyVersion(step=0)


def make_request(num_prompts=2, num_samples=4, temperature=1.0):
    prompts = tuple(
        Prompt(prompt_id=f"p{index}", token_ids=(1, 2), text=f"question {index}", answer="4")
        for index in range(num_prompts)
    )
    return GenerateRequest(
        prompts=prompts, num_samples=num_samples, max_response_len=8, temperature=temperature, top_p=1.0, seed=11
    )


def make_rollout(prompt_id, sample_index, text, length=3, finish_reason=FinishReason.STOP):
    return Rollout(
        prompt_id=prompt_id,
        sample_index=sample_index,
        prompt_token_ids=(1, 2),
        response_token_ids=torch.zeros(length, dtype=torch.int64),
        rollout_logprobs=torch.zeros(length),
        text=text,
        finish_reason=finish_reason,
        seed=100 + sample_index,
        policy_version=VERSION,
    )


def judge(texts_by_prompt, request=None, **changes):
    """Responses with reward 1 for "4", 0.5 for "half", else 0; answers are the texts themselves."""
    request = request or make_request(len(texts_by_prompt), len(texts_by_prompt[0]))
    rollouts = tuple(
        make_rollout(f"p{prompt}", sample, text)
        for prompt, texts in enumerate(texts_by_prompt)
        for sample, text in enumerate(texts)
    )
    judged = SetInput(
        request=request,
        rollouts=rollouts,
        rewards=tuple({"4": 1.0, "half": 0.5}.get(rollout.text, 0.0) for rollout in rollouts),
        answers=tuple(normalise_answer(rollout.text) for rollout in rollouts),
    )
    return replace(judged, **changes)


def test_the_scores_are_means_over_prompts():
    result = evaluate_set(judge([["4", "4", "5", "4"], ["5", "4", "5", "6"]]))
    assert result.avg_at_k.value == (3 / 4 + 1 / 4) / 2
    assert list(result.pass_at_k) == [1, 2, 4]
    # pass@2: 1 - C(1, 2)/C(4, 2) = 1 and 1 - C(3, 2)/C(4, 2) = 1/2.
    assert [estimate.value for estimate in result.pass_at_k.values()] == [0.5, 0.75, 1.0]
    # maj@4: three of four say 4; two of four say 5.
    assert result.maj_at_k[4].value == 0.5
    assert result.per_prompt == {"p0": 0.75, "p1": 0.25}
    assert (result.num_prompts, result.samples_per_prompt, result.is_greedy) == (2, 4, False)


def test_partial_credit_counts_in_the_mean_and_is_no_pass():
    result = evaluate_set(judge([["half", "half"]]))
    assert (result.avg_at_k.value, result.pass_at_k[2].value) == (0.5, 0.0)


def test_intervals_are_over_prompts_and_absent_for_one():
    texts = [["4", "4"], ["4", "5"], ["5", "5"], ["4", "4"], ["5", "5"]]
    result = evaluate_set(judge(texts))
    # Of the prompts' own means, with the request's seed.
    assert result.avg_at_k.interval == bootstrap_interval([1, 0.5, 0, 1, 0], seed=11)
    low, high = result.avg_at_k.interval
    assert 0 <= low < 0.5 < high <= 1
    assert evaluate_set(judge([["4", "5"]])).avg_at_k.interval is None


def test_lengths_truncation_and_reverse_kl_are_counted_over_responses():
    judged = judge([["4", "4"], ["5", "5"]])
    long = make_rollout("p1", 1, "5", length=7, finish_reason=FinishReason.LENGTH)
    judged = replace(judged, rollouts=(*judged.rollouts[:3], long), reverse_kl=(0.5, 1.0, -0.5, 2.2))
    result = evaluate_set(judged)
    # Lengths 3, 3, 3, 7.
    assert (result.mean_response_len.value, result.num_generated_tokens) == (4.0, 16)
    assert result.truncation_rate.value == 0.25
    # 3.2 nats over 16 tokens, not the mean of each response's own ratio.
    assert result.reverse_kl_per_token.value == pytest.approx(0.2)
    assert evaluate_set(replace(judged, reverse_kl=None)).reverse_kl_per_token is None


def test_without_extracted_answers_there_is_no_majority():
    assert evaluate_set(judge([["4", "5"]], answers=None)).maj_at_k is None


def test_responses_may_come_in_any_order():
    judged = judge([["4", "4"], ["5", "4"]])
    order = [3, 0, 2, 1]
    shuffled = replace(
        judged,
        rollouts=tuple(judged.rollouts[index] for index in order),
        rewards=tuple(judged.rewards[index] for index in order),
        answers=tuple(judged.answers[index] for index in order),
    )
    assert evaluate_set(shuffled) == evaluate_set(judged)


def test_a_missing_response_is_a_broken_promise():
    judged = judge([["4", "4"], ["5", "5"]])
    with pytest.raises(AssertionError, match="4 responses were asked for"):
        replace(judged, rollouts=judged.rollouts[:3])
    with pytest.raises(AssertionError, match="prompt p0 has 3 responses"):
        evaluate_set(replace(judged, rollouts=(*judged.rollouts[:3], make_rollout("p0", 2, "4"))))


@pytest.mark.parametrize(("num_samples", "ks"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (32, [1, 2, 4, 8, 16, 32])])
def test_k_doubles_up_to_the_number_of_samples(num_samples, ks):
    assert choices_of_k(num_samples) == ks


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (" 1,000 ", "1000"),
        ("$x+1$", "x + 1."),
        ("0.50", "1/2"),
        ("4.", "4.0"),
        ("１２", "12"),  # noqa: RUF001  (full-width digits)
    ],
)
def test_answers_that_differ_in_notation_only_are_one(first, second):
    assert normalise_answer(first) == normalise_answer(second)


@pytest.mark.parametrize(
    ("first", "second"), [("1,00", "100"), ("2/4", "1/2"), ("x", "X"), ("1e3", "1000"), ("-4", "4")]
)
def test_answers_that_may_differ_are_two(first, second):
    assert normalise_answer(first) != normalise_answer(second)


def test_an_empty_answer_is_none():
    assert [normalise_answer(answer) for answer in (None, "", " $ $ ", ".")] == [None] * 4


def test_the_extractor_stands_beside_the_verifier():
    assert answer_extractor("effopd.toy.verify:sums")("104,141,209") == "209"
    assert answer_extractor("effopd.rewards.math:verify")(r"so \boxed{4}") == "4"
    assert answer_extractor("json:loads") is None


class FixedRoles:
    """A sampler that says what it is told to, a verifier that wants 4 and a teacher that scores 0.5 nats a response."""

    def __init__(self, rollouts):
        self.rollouts = rollouts

    def load(self, publication):
        raise AssertionError("nothing is published in an evaluation of a folder")

    def generate(self, request, version):
        summaries = tuple(
            RolloutSummary(
                prompt_id=rollout.prompt_id,
                sample_index=rollout.sample_index,
                prompt_len=2,
                response_len=rollout.response_len,
                is_truncated=False,
            )
            for rollout in self.rollouts
        )
        return RolloutHandle(parts=((self.rollouts,),), summaries=summaries, policy_version=version)

    def preview(self, rollouts, num_rollouts):
        ((found,),) = rollouts.parts
        return list(found[:num_rollouts])

    def rewards(self, rollouts, prompts):
        return [float(rollout.text == "so 4") for rollout in self.rollouts]

    def score(self, rollouts, payload):
        summaries = tuple(replace(summary, sampled_reverse_kl=0.5) for summary in rollouts.summaries)
        return ScoredHandle(parts=rollouts.parts, summaries=summaries, policy_version=rollouts.policy_version)


def test_a_set_is_sampled_judged_and_scored():
    roles = FixedRoles(judge([["so 4", "so 5"]]).rollouts)
    judged, handle = sample_set(roles, roles, make_request(1, 2), VERSION, lambda text: text.removeprefix("so "))
    assert (judged.rewards, judged.answers, judged.reverse_kl) == ((1.0, 0.0), ("4", "5"), None)
    assert with_reverse_kl(judged, handle, roles).reverse_kl == (0.5, 0.5)
    unextracted, _ = sample_set(roles, roles, make_request(1, 2), VERSION, None)
    assert unextracted.answers is None


def test_the_files_hold_every_response_and_every_number(tmp_path):
    sets = {
        "sums": judge([["4", "5"], ["4", ""]], reverse_kl=(0.25, 0.5, 0.75, 1.0)),
        "greedy": judge([["5"]], make_request(1, 1, temperature=0.0), answers=None),
    }
    results = evaluate_sets(sets)
    write_results(tmp_path, {"model": "m", "teacher": None}, sets, results)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["eval.json", "responses.parquet"]

    content = json.loads((tmp_path / "eval.json").read_text())
    assert (content["model"], content["responses"], list(content["sets"])) == (
        "m",
        "responses.parquet",
        ["sums", "greedy"],
    )
    assert content["sets"]["sums"]["pass_at_k"]["2"]["value"] == 1.0
    assert content["sets"]["sums"]["per_prompt"] == {"p0": 0.5, "p1": 0.5}
    greedy = content["sets"]["greedy"]
    assert (greedy["is_greedy"], greedy["maj_at_k"], greedy["reverse_kl_per_token"]) == (True, None, None)

    rows = pq.read_table(tmp_path / "responses.parquet").to_pylist()
    assert [(row["set"], row["prompt_id"], row["sample_index"]) for row in rows] == [
        ("sums", "p0", 0), ("sums", "p0", 1), ("sums", "p1", 0), ("sums", "p1", 1), ("greedy", "p0", 0),
    ]  # fmt: skip
    assert rows[1] == {
        "set": "sums",
        "prompt_id": "p0",
        "sample_index": 1,
        "prompt": "question 0",
        "response": "5",
        "num_tokens": 3,
        "finish_reason": "stop",
        "reward": 0.0,
        "answer": "5",
        "expected_answer": "4",
        "seed": 101,
        "reverse_kl": 0.5,
    }
    assert (rows[3]["answer"], rows[4]["answer"], rows[4]["reverse_kl"]) == (None, None, None)


def test_the_table_has_a_row_per_set():
    sets = {"a|b": judge([["4", "5"], ["4", "4"]]), "greedy": judge([["5"]], make_request(1, 1, temperature=0.0))}
    heading, rule, first, second = results_table(evaluate_sets(sets)).splitlines()
    assert "score (avg@k)" in heading and "maj@k" in heading
    assert set(rule) == set("|- :")
    assert first.startswith(r"| a\|b ") and " 75.0% [" in first
    assert " 1, greedy " in second and " 0.0% " in second
