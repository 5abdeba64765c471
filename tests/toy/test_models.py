"""The shipped toy models: what they are, and that their scores are what is stated of them."""

import json
import math

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from effopd.toy.make import MODELS_DIR, STAGES
from effopd.toy.scoring import Score, max_response_tokens, sample, score_model
from effopd.toy.tasks import GENERATORS, problems
from effopd.toy.tokenizer import EOS_TOKEN_ID, PAD_TOKEN_ID, build_tokenizer

MODELS = [f"{task}_{stage}" for task in sorted(GENERATORS) for stage in STAGES]

each_model = pytest.mark.parametrize("name", MODELS)


def load(name: str):
    return AutoModelForCausalLM.from_pretrained(MODELS_DIR / name, dtype=torch.float32)


def stated_score(name: str) -> Score:
    return Score(**json.loads((MODELS_DIR / "scores.json").read_text())[name]["score"])


@each_model
def test_model_is_a_qwen3_of_at_most_half_a_million_parameters(name: str):
    model = load(name)
    assert model.config.architectures == ["Qwen3ForCausalLM"]
    assert model.num_parameters() <= 500_000


@each_model
def test_weights_are_stored_in_bfloat16(name: str):
    assert AutoModelForCausalLM.from_pretrained(MODELS_DIR / name).dtype == torch.bfloat16


@each_model
def test_model_and_tokenizer_agree_on_vocabulary_and_special_tokens(name: str):
    model = load(name)
    tokenizer = AutoTokenizer.from_pretrained(MODELS_DIR / name)
    assert model.config.vocab_size == len(tokenizer)
    for config in (model.config, model.generation_config):
        assert (config.eos_token_id, config.pad_token_id) == (EOS_TOKEN_ID, PAD_TOKEN_ID)
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (EOS_TOKEN_ID, PAD_TOKEN_ID)


@each_model
def test_shipped_tokenizer_is_the_one_that_is_built(name: str):
    # AutoTokenizer may choose another class than the one that was saved; what counts is that it does the same.
    shipped = AutoTokenizer.from_pretrained(MODELS_DIR / name)
    built = build_tokenizer()
    assert shipped.get_vocab() == built.get_vocab()
    for problem in problems("programs", "eval", 20, 0) + problems("sums", "eval", 20, 0):
        text = problem.prompt + problem.solution
        assert shipped(text).input_ids == built(text).input_ids
        assert shipped.decode(shipped(text).input_ids) == text


def test_all_models_ship_the_same_tokenizer_files():
    for file in ("tokenizer.json", "tokenizer_config.json"):
        assert len({(MODELS_DIR / name / file).read_bytes() for name in MODELS}) == 1


@each_model
def test_shipped_tokenizer_neither_pads_nor_cuts_by_itself(name: str):
    file = json.loads((MODELS_DIR / name / "tokenizer.json").read_text())
    assert (file["padding"], file["truncation"]) == (None, None)


@pytest.mark.parametrize("task", sorted(GENERATORS))
def test_base_is_unsure_but_knows_the_task(task: str):
    score = stated_score(f"{task}_base")
    assert 0.35 <= score.pass_at_1 <= 0.45
    assert score.greedy >= 0.9


@pytest.mark.parametrize("task", sorted(GENERATORS))
def test_teacher_is_right_most_of_the_time(task: str):
    assert stated_score(f"{task}_teacher").pass_at_1 >= 0.85


@each_model
def test_stated_score_is_what_the_shipped_weights_reach(name: str):
    task = name.split("_")[0]
    stated = stated_score(name)
    measured = score_model(task, load(name), AutoTokenizer.from_pretrained(MODELS_DIR / name), 192, 2)
    # Four standard errors of the difference, were the two measured on different problems; these share some, so it is less.
    tolerance = 4 * math.hypot(stated.pass_at_1_se, measured.pass_at_1_se)
    assert measured.pass_at_1 == pytest.approx(stated.pass_at_1, abs=tolerance)


def test_responses_end_by_themselves():
    task = "programs"
    model = load(f"{task}_teacher")
    prompts = [problem.prompt for problem in problems(task, "eval", 64, 0)]
    samples = sample(model, build_tokenizer(), prompts, max_response_tokens(task), 0.0)
    has_ended = ((samples.token_ids == EOS_TOKEN_ID) & (samples.response_mask == 1)).any(dim=1)
    assert has_ended.float().mean() >= 0.95


def test_response_mask_covers_the_response_and_its_end():
    task = "programs"
    tokenizer = build_tokenizer()
    prompts = [problem.prompt for problem in problems(task, "eval", 16, 0)]
    samples = sample(load(f"{task}_teacher"), tokenizer, prompts, max_response_tokens(task), 0.0)
    for row, prompt, text in zip(range(16), prompts, samples.texts, strict=True):
        response = samples.token_ids[row][samples.response_mask[row] == 1]
        assert tokenizer.decode(response, skip_special_tokens=True) == text
        visible = samples.token_ids[row][samples.attention_mask[row] == 1]
        assert tokenizer.decode(visible, skip_special_tokens=True) == prompt + text
