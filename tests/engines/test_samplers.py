"""One contract, two engines: vLLM and transformers must be interchangeable.

The reference throughout is an independent teacher-forced forward of the Hugging Face model, in float32.
"""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from effopd.algorithms.logprobs import gather_logprobs
from effopd.config.schema import Device, Dtype, RolloutConfig
from effopd.engines.hf_sampler import HFSampler, draw_tokens
from effopd.engines.rendezvous import ALONE, join_process_group
from effopd.engines.vllm_sampler import VLLMSampler
from effopd.errors import ConfigError, RolloutError, WeightSyncError
from effopd.seeds import sample_seed
from effopd.types import FinishReason, GenerateRequest, PolicyVersion, Prompt
from effopd.weights import SegmentWriter

VOCAB_SIZE = 64
EOS_IDS = (1, 2)
MAX_MODEL_LEN = 192
TOLERANCE = 1e-3  # nats, float32
CONFIG = RolloutConfig(kv_cache_gib=0.25, max_num_seqs=16, num_threads=1)


def write_model(folder: Path, *, tied: bool) -> Qwen3ForCausalLM:
    """Write a random model whose distributions are far from uniform, with two end tokens and a character tokenizer."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCAB_SIZE,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=MAX_MODEL_LEN,
        tie_word_embeddings=tied,
        initializer_range=0.2,
        pad_token_id=0,
        eos_token_id=EOS_IDS[0],
        bos_token_id=None,
    )
    model = Qwen3ForCausalLM(config).eval()
    model.generation_config.eos_token_id = list(EOS_IDS)
    model.save_pretrained(folder)
    vocabulary = {"<pad>": 0, "<eos>": 1, "<end>": 2} | {chr(ord("0") + index): index for index in range(3, VOCAB_SIZE)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>", additional_special_tokens=["<end>"]
    ).save_pretrained(folder)
    return model


def perturb(model: Qwen3ForCausalLM, seed: int) -> None:
    """Move every parameter, the embedding included."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator).to(parameter.dtype), alpha=0.05)


class World:
    """A sampler, the model whose weights it should hold, and the segment between them."""

    def __init__(self, sampler_class, folder: Path, *, tied: bool = True, dtype: Dtype = Dtype.float32) -> None:
        self.folder = folder
        self.model = write_model(folder, tied=tied).to(getattr(torch, dtype.value))
        config = RolloutConfig(kv_cache_gib=0.25, max_num_seqs=16, num_threads=1, dtype=dtype)
        self.sampler = sampler_class(config, str(folder), max_model_len=MAX_MODEL_LEN, device=Device.cpu, seed=0)
        self.writer = SegmentWriter(folder)
        self.version = PolicyVersion(step=0)

    def write(self):
        """Write the model's weights as the next version. Buckets are small, so that layers span them."""
        self.version = PolicyVersion(step=self.version.step + 1)
        layout = [(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in self.model.named_parameters()]
        return self.writer.write(self.version, self.model.named_parameters(), layout=layout, bucket_bytes=20_000)

    def publish(self) -> None:
        self.sampler.load(self.write())

    def generate(self, prompts, *, num_samples=1, max_response_len=24, temperature=1.0, top_p=1.0, seed=7):
        request = GenerateRequest(
            prompts=tuple(prompts),
            num_samples=num_samples,
            max_response_len=max_response_len,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
        )
        return self.sampler.generate(request, self.version)

    def response_logits(self, rollout):
        """Return the model's logits [R, V] at every response token, from a forward of its own."""
        token_ids = torch.tensor([*rollout.prompt_token_ids, *rollout.response_token_ids.tolist()])
        with torch.no_grad():
            logits = self.model(token_ids[None]).logits[0].float()
        return logits[len(rollout.prompt_token_ids) - 1 : -1]

    def largest_gap(self, rollouts) -> float:
        """Return the largest difference between sampled and teacher-forced log-probabilities, nats."""
        return max(
            (gather_logprobs(self.response_logits(rollout), rollout.response_token_ids) - rollout.rollout_logprobs)
            .abs()
            .max()
            .item()
            for rollout in rollouts
        )

    def close(self) -> None:
        self.sampler.close()
        self.writer.close()


HF = (HFSampler, True, Dtype.float32)
VLLM = (VLLMSampler, True, Dtype.float32)
VLLM_UNTIED = (VLLMSampler, False, Dtype.float32)
VLLM_BFLOAT16 = (VLLMSampler, True, Dtype.bfloat16)


@pytest.fixture(scope="module")
def learner_group():
    """A process group such as a learner of this process makes: samplers must neither need it nor harm it. One that a learner
    of an earlier test has left will do."""
    is_own = not torch.distributed.is_initialized()
    if is_own:
        join_process_group("gloo", ALONE, rank=0, world_size=1)
    yield
    if is_own:
        torch.distributed.destroy_process_group()


# One fixture for all engines, so that pytest closes one before it opens the next.
@pytest.fixture(scope="module", params=[HF, VLLM], ids=["hf", "vllm"])
def world(request, learner_group, tmp_path_factory):
    sampler_class, tied, dtype = request.param
    world = World(sampler_class, tmp_path_factory.mktemp("world"), tied=tied, dtype=dtype)
    with pytest.raises(WeightSyncError, match="none yet"):
        world.generate(ragged_prompts(1))
    world.publish()
    yield world
    world.close()


def prompt(name: str, length: int, *, offset: int = 0) -> Prompt:
    return Prompt(
        prompt_id=name,
        token_ids=tuple(3 + (offset + 7 * index + index * index) % (VOCAB_SIZE - 3) for index in range(length)),
        text="",
        answer="",
    )


def ragged_prompts(num: int) -> list[Prompt]:
    return [prompt(f"p{index}", 1 + 5 * index % 17, offset=index) for index in range(num)]


def tokens(rollouts) -> list[list[int]]:
    return [rollout.response_token_ids.tolist() for rollout in rollouts]


# What a response is


def test_sampled_logprobs_are_those_of_a_teacher_forced_forward(world):
    rollouts = world.generate(ragged_prompts(12), num_samples=2)
    assert world.largest_gap(rollouts) < TOLERANCE


def test_logprobs_are_of_the_raw_distribution_whatever_temperature_and_top_p(world):
    rollouts = world.generate(ragged_prompts(8), temperature=0.7, top_p=0.9)
    assert world.largest_gap(rollouts) < TOLERANCE


def test_responses_come_prompt_by_prompt_and_sample_by_sample_with_their_seeds(world):
    prompts = ragged_prompts(9)
    rollouts = world.generate(prompts, num_samples=3, seed=11)
    expected = [
        (prompt.prompt_id, index, sample_seed(11, prompt.prompt_id, index)) for prompt in prompts for index in range(3)
    ]
    assert [(rollout.prompt_id, rollout.sample_index, rollout.seed) for rollout in rollouts] == expected
    assert [rollout.prompt_token_ids for rollout in rollouts] == [p.token_ids for p in prompts for _ in range(3)]


def test_a_response_carries_its_version_and_plain_cpu_tensors_that_autograd_accepts(world):
    for rollout in world.generate(ragged_prompts(3)):
        assert rollout.policy_version == world.version
        assert rollout.response_token_ids.dtype == torch.int64
        assert rollout.rollout_logprobs.dtype == torch.float32
        assert rollout.rollout_logprobs.shape == rollout.response_token_ids.shape
        assert not rollout.response_token_ids.is_inference()
        assert not rollout.rollout_logprobs.is_inference()


def test_a_response_ends_at_its_first_end_token_and_keeps_it(world):
    rollouts = world.generate(ragged_prompts(16), num_samples=4, max_response_len=60)
    stopped = [rollout for rollout in rollouts if rollout.finish_reason is FinishReason.STOP]
    # Both end tokens occur, so both are known to the engine.
    assert {rollout.response_token_ids[-1].item() for rollout in stopped} == set(EOS_IDS)
    for rollout in rollouts:
        assert not set(rollout.response_token_ids[:-1].tolist()) & set(EOS_IDS)


def test_a_response_that_does_not_end_is_cut_at_the_limit(world):
    rollouts = world.generate(ragged_prompts(16), max_response_len=3)
    cut = [rollout for rollout in rollouts if rollout.finish_reason is FinishReason.LENGTH]
    assert cut
    assert all(rollout.response_len == 3 for rollout in cut)
    assert all(rollout.response_token_ids[-1].item() not in EOS_IDS for rollout in cut)


def test_prompt_and_response_never_exceed_the_model_length(world):
    rollouts = world.generate([prompt("long", MAX_MODEL_LEN - 2), prompt("longest", MAX_MODEL_LEN - 1)], num_samples=4)
    assert all(len(rollout.prompt_token_ids) + rollout.response_len <= MAX_MODEL_LEN for rollout in rollouts)
    assert max(rollout.response_len for rollout in rollouts[:4]) == 2
    assert world.largest_gap(rollouts) < TOLERANCE


def test_text_is_the_response_without_special_tokens(world):
    for rollout in world.generate(ragged_prompts(8), num_samples=2):
        characters = [chr(ord("0") + token) for token in rollout.response_token_ids.tolist() if token > 2]
        assert rollout.text == "".join(characters)


def test_pieces_come_when_they_are_finished_and_are_what_would_come_at_once(world):
    # The second of four prompts has room for two tokens, the others for many: its piece is finished first.
    prompts = [prompt("a", 4), prompt("b", MAX_MODEL_LEN - 2), prompt("c", 5), prompt("d", 6)]
    request = GenerateRequest(
        prompts=tuple(prompts), num_samples=2, max_response_len=60, temperature=1.0, top_p=1.0, seed=3
    )
    pieces = dict(world.sampler.stream(request, world.version, num_pieces=3))
    assert next(iter(pieces)) == 1
    # Four prompts in three pieces: 1, 1 and 2 of them.
    assert {piece: [rollout.prompt_id for rollout in own] for piece, own in pieces.items()} == {
        0: ["a"] * 2,
        1: ["b"] * 2,
        2: ["c"] * 2 + ["d"] * 2,
    }
    together = world.sampler.generate(request, world.version)
    streamed = [rollout for piece in range(3) for rollout in pieces[piece]]
    assert tokens(streamed) == tokens(together)
    for one, other in zip(streamed, together, strict=True):
        assert torch.equal(one.rollout_logprobs, other.rollout_logprobs)
        assert (one.text, one.finish_reason, one.seed) == (other.text, other.finish_reason, other.seed)


def test_an_engine_whose_stream_is_left_half_way_answers_the_next_request(world):
    request = GenerateRequest(
        prompts=tuple(ragged_prompts(6)), num_samples=2, max_response_len=40, temperature=1.0, top_p=1.0, seed=5
    )
    stream = world.sampler.stream(request, world.version, num_pieces=6)
    next(stream)
    stream.close()
    assert tokens(world.generate(ragged_prompts(3), seed=6)) == tokens(world.generate(ragged_prompts(3), seed=6))
    assert len(world.generate(ragged_prompts(3))) == 3


# What is drawn


def test_the_same_request_gives_the_same_tokens(world):
    prompts = ragged_prompts(12)
    assert tokens(world.generate(prompts, num_samples=2)) == tokens(world.generate(prompts, num_samples=2))


def test_another_seed_gives_other_tokens(world):
    prompts = ragged_prompts(12)
    assert tokens(world.generate(prompts, seed=1)) != tokens(world.generate(prompts, seed=2))


def test_samples_of_one_prompt_differ(world):
    assert len({tuple(row) for row in tokens(world.generate([prompt("p", 5)], num_samples=8))}) > 4


def test_a_response_does_not_depend_on_the_other_prompts_of_its_request(world):
    prompts = ragged_prompts(20)
    together = {rollout.prompt_id: rollout.response_token_ids.tolist() for rollout in world.generate(prompts)}
    alone = world.generate(prompts[5:8], max_response_len=24)
    assert tokens(alone) == [together[rollout.prompt_id] for rollout in alone]


def test_temperature_zero_takes_the_most_likely_token(world):
    for rollout in world.generate(ragged_prompts(8), temperature=0.0):
        assert torch.equal(world.response_logits(rollout).argmax(-1), rollout.response_token_ids)


def test_top_p_draws_from_the_nucleus_only(world):
    for rollout in world.generate(ragged_prompts(8), top_p=0.5):
        descending, order = world.response_logits(rollout).softmax(-1).sort(-1, descending=True)
        # The nucleus ends with the first token at which the sum reaches 0.5.
        is_nucleus = descending.cumsum(-1) - descending < 0.5
        for position, token in enumerate(rollout.response_token_ids):
            assert token in order[position][is_nucleus[position]]


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_first_tokens_follow_the_models_distribution(world, temperature):
    num_samples = 2000
    rollouts = world.generate([prompt("p", 6)], num_samples=num_samples, max_response_len=1, temperature=temperature)
    expected = num_samples * (world.response_logits(rollouts[0])[0] / temperature).softmax(-1)
    counts = torch.bincount(torch.cat([rollout.response_token_ids for rollout in rollouts]), minlength=VOCAB_SIZE)
    is_common = expected > 5
    chi_square = ((counts - expected)[is_common] ** 2 / expected[is_common]).sum().item()
    degrees = int(is_common.sum())
    assert chi_square < degrees + 4 * (2 * degrees) ** 0.5  # mean and four standard deviations of chi-square


# What is refused


def test_another_version_is_refused_and_both_are_named(world):
    with pytest.raises(WeightSyncError, match=rf"99\.3.*{world.version}"):
        world.sampler.generate(
            GenerateRequest(
                prompts=(prompt("p", 4),), num_samples=1, max_response_len=2, temperature=1.0, top_p=1.0, seed=0
            ),
            PolicyVersion(step=99, candidate=3),
        )


@pytest.mark.parametrize("length", [0, MAX_MODEL_LEN, MAX_MODEL_LEN + 50])
def test_a_prompt_that_leaves_no_room_is_refused_by_name_length_and_limit(world, length):
    with pytest.raises(RolloutError, match=rf"too-long has {length} tokens.*{MAX_MODEL_LEN - 1}"):
        world.generate([prompt("fine", 4), prompt("too-long", length)])
    assert len(world.generate([prompt("fine", 4)])) == 1


@pytest.mark.parametrize("token_id", [-1, VOCAB_SIZE])
def test_a_prompt_with_a_token_that_the_model_lacks_is_refused_by_name(world, token_id):
    alien = Prompt(prompt_id="alien", token_ids=(5, token_id), text="", answer="")
    with pytest.raises(RolloutError, match="alien"):
        world.generate([prompt("fine", 4), alien])


# What a load changes


def test_after_a_load_samples_come_from_the_new_weights(world):
    before = world.generate(ragged_prompts(8))
    perturb(world.model, seed=1)
    world.publish()
    after = world.generate(ragged_prompts(8))
    assert world.largest_gap(after) < TOLERANCE
    assert world.largest_gap(before) > 0.1, "the perturbation is too small to tell old weights from new ones"
    assert world.sampler.version == world.version


def test_a_second_load_counts_too(world):
    for seed in (2, 3):
        perturb(world.model, seed)
        world.publish()
    assert world.largest_gap(world.generate(ragged_prompts(8))) < TOLERANCE


def test_nothing_cached_under_old_weights_answers_for_new_ones(world):
    # Longer than the 128 tokens of a vLLM cache block on a CPU, so that a prefix cache would hold it.
    long_prompts = [prompt("long", 150)]
    world.generate(long_prompts, max_response_len=4)
    perturb(world.model, seed=4)
    world.publish()
    assert world.largest_gap(world.generate(long_prompts, max_response_len=4)) < TOLERANCE


def test_a_damaged_segment_is_refused_and_the_old_weights_stay_in_force(world):
    held = world.version
    publication = world.write()
    with open(publication.segment, "r+b") as file:
        file.seek(1000)
        byte = file.read(1)[0]
        file.seek(1000)
        file.write(bytes([byte ^ 1]))
    with pytest.raises(WeightSyncError, match=str(publication.version)):
        world.sampler.load(publication)
    assert world.sampler.version == held
    world.publish()


def test_a_publication_that_lacks_weights_is_refused_and_nothing_is_sampled_until_the_next(world):
    kept = [(name, tensor) for name, tensor in world.model.named_parameters() if "layers.1.mlp.down" not in name]
    version = PolicyVersion(step=50)
    layout = [(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in kept]
    publication = world.writer.write(version, kept, layout=layout, bucket_bytes=1 << 20)
    with pytest.raises(WeightSyncError, match=r"layers\.1\.mlp\.down_proj"):
        world.sampler.load(publication)
    assert world.sampler.version is None
    world.publish()
    assert world.largest_gap(world.generate(ragged_prompts(8))) < TOLERANCE


def test_a_tensor_that_the_model_does_not_know_is_refused_and_the_next_load_is_whole(world):
    alien = [*world.model.named_parameters(), ("model.layers.1.mlp.sideways.weight", torch.zeros(2, 2))]
    # The alien comes after half of the model, so that the load breaks off in the middle.
    alien.insert(len(alien) // 2, alien.pop())
    layout = [(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in alien]
    publication = world.writer.write(PolicyVersion(step=60), alien, layout=layout, bucket_bytes=1000)
    with pytest.raises(WeightSyncError, match=r"60\.0.*sideways"):
        world.sampler.load(publication)
    assert world.sampler.version is None
    perturb(world.model, seed=6)
    world.publish()
    assert world.largest_gap(world.generate(ragged_prompts(8))) < TOLERANCE


# vLLM alone


@pytest.mark.parametrize("world", [VLLM], ids=["vllm"], indirect=True)
def test_without_repacking_a_tied_head_would_silently_keep_the_old_weights(world, monkeypatch):
    from effopd.engines import vllm_shared_memory

    perturb(world.model, seed=5)
    with monkeypatch.context() as patch:
        patch.setattr(vllm_shared_memory, "current_platform", SimpleNamespace(is_cpu=lambda: False))
        world.publish()
        assert world.largest_gap(world.generate(ragged_prompts(8))) > 0.1
    world.publish()
    assert world.largest_gap(world.generate(ragged_prompts(8))) < TOLERANCE


@pytest.mark.parametrize("world", [VLLM], ids=["vllm"], indirect=True)
def test_vllm_leaves_torch_set_num_threads_working(world):
    torch.set_num_threads(2)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize("world", [VLLM], ids=["vllm"], indirect=True)
def test_a_vllm_that_runs_on_another_device_is_refused(world):
    with pytest.raises(ConfigError, match=r"cluster\.device=cuda"):
        VLLMSampler(CONFIG, str(world.folder), max_model_len=MAX_MODEL_LEN, device=Device.cuda, seed=0)


def test_importing_the_vllm_adapter_does_not_import_vllm():
    program = "import sys, effopd.engines.vllm_sampler; sys.exit('vllm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize(
    ("world", "tolerance"),
    # bfloat16 keeps 8 bits: logits of size 8 are rounded to multiples of 1/32, and the two engines round differently.
    [(VLLM_UNTIED, TOLERANCE), (VLLM_BFLOAT16, 0.25)],
    ids=["untied-float32", "tied-bfloat16"],
    indirect=["world"],
)
def test_vllm_loads_untied_heads_and_low_precision_whole(world, tolerance):
    before = world.generate(ragged_prompts(8))
    perturb(world.model, seed=1)
    world.publish()
    after = world.generate(ragged_prompts(8))
    assert world.largest_gap(after) < tolerance
    assert world.largest_gap(before) > 2 * tolerance


@pytest.mark.parametrize("world", [VLLM_BFLOAT16], ids=["tied-bfloat16"], indirect=True)
def test_closing_vllm_spares_the_process_group_of_a_learner(world):
    world.sampler.close()
    total = torch.ones(2)
    torch.distributed.all_reduce(total)
    assert total.tolist() == [1, 1]


# Drawing


def test_a_token_is_the_inverse_of_the_distribution_function():
    # Cumulative 0.25, 0.25, 0.75, 1: noise up to 0.25 is token 0, up to 0.75 token 2, up to 1 token 3; token 1 never.
    logprobs = torch.tensor([0.25, 0.0, 0.5, 0.25]).log().expand(7, -1)
    noise = torch.tensor([2.0**-24, 0.2499, 0.2501, 0.5, 0.7499, 0.7501, 1.0])
    assert draw_tokens(logprobs, noise, 1.0, 1.0).tolist() == [0, 0, 2, 2, 2, 3, 3]


def test_temperature_sharpens_before_drawing():
    # Probabilities 0.2 and 0.8 at temperature 0.5 are squared and normalised: 1/17 and 16/17.
    logprobs = torch.tensor([[0.2, 0.8]]).log()
    assert draw_tokens(logprobs, torch.tensor([1 / 17 - 1e-3]), 0.5, 1.0).item() == 0
    assert draw_tokens(logprobs, torch.tensor([1 / 17 + 1e-3]), 0.5, 1.0).item() == 1


def test_top_p_keeps_the_token_that_crosses_the_threshold():
    # In descending order 0.5, 0.3, 0.2: with top_p 0.6 the first two remain, 0.3 / 0.8 = 0.375 and 0.5 / 0.8 = 0.625.
    logprobs = torch.tensor([[0.3, 0.2, 0.5]]).log().expand(4, -1)
    assert draw_tokens(logprobs, torch.tensor([0.1, 0.37, 0.38, 1.0]), 1.0, 0.6).tolist() == [0, 0, 2, 2]
