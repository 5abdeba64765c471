"""What `effopd plan` computes, refuses and prints. The learner's bytes are measured in `engines/test_planned_memory.py`."""

import json
from dataclasses import replace
from functools import cache

import pytest

from effopd.cli import main
from effopd.config.jobs import training_jobs
from effopd.config.register import configs_folder, open_configs
from effopd.config.schema import RunConfig
from effopd.errors import ConfigError
from effopd.plan import remedies
from effopd.plan.hardware import GPUS, Cluster
from effopd.plan.inference_memory import kv_bytes_per_token
from effopd.plan.learner_memory import largest_micro_batches, sharded_state
from effopd.plan.remedies import smallest_change
from effopd.plan.report import Plan, make_plan, models_of
from effopd.plan.shapes import KNOWN, shape_of

TEACHER = {
    "r1_distill_1p5b_brorl": "nvidia/Nemotron-Research-Reasoning-Qwen-1.5B",
    "qwen3_8b_base_ppo": "Qwen/Qwen3-8B",
    "qwen3_14b_base_dapo": "Qwen/Qwen3-14B",
    "qwen3_14b_grpo": "Qwen/Qwen3-14B",
    "qwen3_8b_base_from_14b_dapo": "Qwen/Qwen3-14B",
}
"""Of recipes whose teacher is nobody's public file, a model of the same shape."""


@cache
def composed(*arguments: str) -> RunConfig:
    with open_configs(None) as configs:
        (job,) = training_jobs(configs, arguments, is_multirun=False)
    return job.config


def recipe(name: str, *arguments: str) -> RunConfig:
    teacher = [f"teacher.path={TEACHER[name]}"] if name in TEACHER else []
    return composed(f"experiment={name}", *teacher, *arguments)


def cluster(device: str, num_nodes: int = 1) -> Cluster:
    return Cluster(gpu=GPUS[device], gpus_per_node=8, num_nodes=num_nodes)


def spread(config: RunConfig, num_nodes: int) -> RunConfig:
    """What cluster=one_node or four_nodes makes of a recipe, which costs less than composing it anew."""
    num_ranks, num_samplers = {1: (4, 3), 4: (16, 15)}[num_nodes]
    if config.rollout.tensor_parallel_size > 1:
        num_samplers = config.rollout.num_samplers  # the recipe's own
    return replace(
        config,
        learner=replace(config.learner, num_ranks=num_ranks),
        rollout=replace(config.rollout, num_samplers=num_samplers),
    )


def planned(config: RunConfig, where: Cluster) -> Plan:
    return make_plan(config, where, models_of(config, {}))


@pytest.mark.parametrize(
    ("name", "num_parameters"),
    # As the hub shows them, from the headers of the safetensors files.
    [
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", 1_777_088_000),
        ("Qwen/Qwen3-4B", 4_022_468_096),
        ("Qwen/Qwen2.5-7B", 7_615_616_512),
        ("Qwen/Qwen3-8B", 8_190_735_360),
        ("Qwen/Qwen3-14B", 14_768_307_200),
        ("Qwen/Qwen2.5-32B", 32_763_876_352),
    ],
)
def test_the_table_of_shapes_has_the_published_parameter_counts(name, num_parameters):
    assert KNOWN[name].num_parameters == num_parameters


def test_a_token_in_the_kv_cache_takes_a_key_and_a_value_per_layer_and_head():
    # Qwen3-8B: 36 layers, 8 heads of 128, bfloat16: 2 x 36 x 8 x 128 x 2. On 2 GPUs half; on 16 one head is on two.
    assert kv_bytes_per_token(KNOWN["Qwen/Qwen3-8B"], 2) == 147_456
    assert kv_bytes_per_token(KNOWN["Qwen/Qwen3-8B"], 2, 2) == 73_728
    assert kv_bytes_per_token(KNOWN["Qwen/Qwen3-8B"], 2, 16) == 147_456 // 8


def test_zero_shares_out_what_its_stage_says():
    def per_parameter(stage: int) -> tuple[float, float, float]:
        learner = replace(recipe("qwen3_8b_base_dapo").learner, zero_stage=stage, num_ranks=4)
        state = sharded_state(1_000_000, learner)
        return state.weights / 1e6, state.gradients / 1e6, (state.masters + state.moments) / 1e6

    # bfloat16 on 4 ranks: masters and moments are 4 + 8 bytes, shared from stage 1; gradients from 2, weights at 3.
    assert [per_parameter(stage) for stage in range(4)] == [(2, 2, 12), (2, 6, 3), (2, 1, 3), (0.5, 1, 3)]


FITS, REFUSED = True, False
EVERYWHERE = ((FITS, FITS, FITS), (FITS, FITS, FITS))
NOT_ON_ONE_H100_NODE = ((REFUSED, FITS, FITS), (FITS, FITS, FITS))
VERDICTS = {
    # On 1 x 8 and on 4 x 8: H100, H200, H20. Masters, moments and gradients are 16 bytes a parameter over 4 ranks.
    "r1_distill_1p5b_justrl": EVERYWHERE,
    "r1_distill_1p5b_brorl": EVERYWHERE,
    "r1_distill_1p5b_prorl": EVERYWHERE,
    "qwen3_4b_grpo": EVERYWHERE,
    "qwen3_4b_grpo_teacher": EVERYWHERE,
    "qwen2p5_7b_orz": EVERYWHERE,
    "qwen3_8b_base_ppo": EVERYWHERE,
    "qwen3_8b_base_dapo": EVERYWHERE,
    "qwen3_8b_base_dapo_teacher": EVERYWHERE,
    "qwen3_8b_base_from_14b_dapo": EVERYWHERE,
    # A policy and a critic of 8B each.
    "qwen3_8b_base_ppo_teacher": NOT_ON_ONE_H100_NODE,
    # 14.8e9 x (2 + 16) / 4 bytes are 62 GiB before any activation.
    "qwen3_14b_base_dapo": NOT_ON_ONE_H100_NODE,
    "qwen3_14b_base_dapo_teacher": NOT_ON_ONE_H100_NODE,
    "qwen3_14b_grpo": NOT_ON_ONE_H100_NODE,
    "qwen3_14b_grpo_teacher": NOT_ON_ONE_H100_NODE,
    # 32.8e9 x 18 / 4 bytes are 137 GiB, and its 7 samplers take 2 GPUs each.
    "qwen2p5_32b_dapo": ((REFUSED, REFUSED, REFUSED), (FITS, FITS, FITS)),
}


def test_every_recipe_of_the_paper_has_a_verdict():
    folder = configs_folder() / "experiment"
    assert {path.stem for path in folder.glob("*.yaml") if not path.stem.startswith(("toy_", "demo_"))} == set(VERDICTS)


@pytest.mark.parametrize("name", VERDICTS)
def test_a_recipe_passes_or_is_refused_with_the_arithmetic(name):
    for num_nodes, verdicts in zip((1, 4), VERDICTS[name], strict=True):
        config = spread(recipe(name), num_nodes)
        for device, fits in zip(("h100", "h200", "h20"), verdicts, strict=True):
            plan = planned(config, cluster(device, num_nodes))
            assert plan.fits is fits, (device, num_nodes, plan.problems)
            if not fits:
                text = " ".join(plan.problems)
                assert "learner rank needs" in text and f"one {device} has" in text, text
                assert "optimizer state" in text and "fp32 masters" in text, text


def test_the_largest_model_fits_on_one_h200_machine_in_the_shape_that_its_recipe_names():
    # learner.num_ranks=5 rollout.num_samplers=1, and 2 GPUs a sampler: 5 + 2 + 1 teacher = 8.
    config = recipe("qwen2p5_32b_dapo", "cluster=one_node", "learner.num_ranks=5", "rollout.num_samplers=1")
    verdicts = {device: planned(config, cluster(device)).fits for device in GPUS}
    assert verdicts == {"h100": REFUSED, "h200": FITS, "h20": REFUSED}


def test_too_few_gpus_are_counted_out_and_the_remedy_is_a_layout_that_fits():
    config = recipe("qwen2p5_32b_dapo", "cluster=one_node")
    plan = planned(config, cluster("h200"))
    # 4 ranks, 7 samplers on 2 GPUs each, one teacher.
    assert "4 learner ranks + 7 samplers x 2 + 1 teacher + 0 reference = 19 GPUs" in plan.problems[0]
    change = smallest_change(config, cluster("h200"), plan.models)
    assert change == "rollout.num_samplers=1 learner.num_ranks=5"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        # Without checkpointing 22,000 tokens of 36 layers are far beyond the GPU; nothing but that changed.
        (["learner.activation_checkpointing=false"], "learner.activation_checkpointing=true"),
        # 8.2e9 x (2 + 2 + 4 + 8) bytes on every rank are 122 GiB; stage 1 still has 2 + 6 + 12 / 4 = 11 a parameter, 84 GiB.
        (["learner.zero_stage=0"], "learner.zero_stage=2"),
        # A fifth of 80 GB has no room for 16 GB of weights, logits and the cache of one sequence.
        (["rollout.gpu_memory_utilization=0.2"], "rollout.gpu_memory_utilization=0.7"),
        # Two million tokens of the teacher at once.
        (["teacher.max_tokens_per_batch=2000000"], "teacher.max_tokens_per_batch=18432"),
    ],
)
def test_the_smallest_change_undoes_the_one_that_does_not_fit(arguments, expected):
    config = recipe("qwen3_8b_base_dapo", *arguments)
    assert not planned(config, cluster("h100")).fits
    assert smallest_change(config, cluster("h100"), models_of(config, {})) == expected


def test_a_packed_micro_batch_is_full_or_one_row_and_has_no_mask():
    padded, packed = (recipe("qwen3_8b_base_dapo", f"learner.packing={choice}") for choice in ("false", "true"))
    assert [batch.num_tokens for batch in largest_micro_batches(packed)] == [packed.learner.max_tokens_per_microbatch]

    def masks(config: RunConfig) -> int:
        learner = planned(config, cluster("h100")).roles[0]
        return sum(item.num_bytes for item in learner.worst.items if item.name == "attention mask")

    assert masks(padded) > 0 == masks(packed)
    # Rows of 2,048 + 16,384 tokens that no budget divides.
    small = recipe("qwen3_8b_base_dapo", "learner.packing=true", "learner.max_tokens_per_microbatch=1000")
    assert [batch.num_tokens for batch in largest_micro_batches(small)] == [18432]


def test_masks_that_do_not_fit_are_packed_away():
    # Two rows of 3,850 tokens: masks take 7,700 x 3,850 x (1 + 36 x 2) bytes, 2.0 GiB, and keys and values repeated for 32
    # heads instead of 8 36 x 7,700 x 2 x 24 x 128 x 2 bytes, 3.2 GiB. Outputs copied take 36 x 7,700 x 4,096 x 2, 2.1 GiB.
    lengths = ("data.max_prompt_len=1024", "rollout.max_response_len=3072", "learner.max_tokens_per_microbatch=7700")
    config = recipe("qwen3_4b_grpo", *lengths, "learner.activation_checkpointing=false")
    plan = planned(config, cluster("h100"))
    packed = replace(config, learner=replace(config.learner, packing=True))
    saved = plan.roles[0].num_bytes - planned(packed, cluster("h100")).roles[0].num_bytes
    assert saved / 2**30 == pytest.approx(2.0 + 3.2 - 2.1, abs=0.3)  # 5 % of them count as lost to fragments
    assert not plan.fits
    assert smallest_change(config, cluster("h100"), plan.models) == "learner.packing=true"


def test_a_trigger_keeps_two_float32_copies_of_what_it_moves_in_main_memory():
    config = recipe("qwen3_8b_base_dapo", "accelerate=released")
    host = planned(config, cluster("h100")).roles[-1]
    training = {item.name: item.num_bytes for item in host.moments[1].items}
    student = KNOWN["Qwen/Qwen3-8B"]
    # Everything but the embedding, the head, 36 input norms and the last norm, over 4 ranks on one machine.
    moved = student.num_parameters - 2 * 151_936 * 4096 - 37 * 4096
    assert training["anchor"] == training["previous displacement"] == 4 * moved


def test_the_command_prints_tables_assumptions_and_a_verdict(capsys):
    code = main(["plan", "experiment=qwen3_4b_grpo", "--device", "h20", "--mean-response", "8000"])
    out = capsys.readouterr().out
    assert code == 0 and out.endswith("\nfits\n")
    for words in ("optimizer state", "KV cache", "logits", "rollout", "update", "assumed:", "8,000 tokens", "h20"):
        assert words in out, words


def test_a_plan_that_does_not_fit_exits_with_2_and_says_why_in_one_line(capsys):
    code = main(["plan", "experiment=qwen3_14b_grpo", "teacher.path=Qwen/Qwen3-14B", "--device=h100"])
    last = capsys.readouterr().out.splitlines()[-1]
    assert code == 2 and last.startswith("does not fit: learner rank needs ")
    assert last.endswith("fits with rollout.num_samplers=2 learner.num_ranks=5")


def test_json_has_bytes_that_add_up(capsys):
    assert main(["plan", "experiment=qwen3_4b_grpo", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["fits"] and document["smallest_change"] is None
    for role in document["roles"]:
        assert sum(role["items"].values()) == role["num_bytes"] <= role["budget_bytes"]
    assert document["step_seconds"] == pytest.approx(sum(phase["seconds"] for phase in document["phases"]))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["experiment=qwen3_4b_grpo", "model.path=some/model"], "model.path=some/model: nothing is known of the shape"),
        (["experiment=qwen3_4b_grpo", "model.path=some/model"], "--shape some/model="),
        (["experiment=qwen3_4b_grpo", "--shape", "some/model"], "is not PATH=LIKE"),
        (["experiment=qwen3_4b_grpo", "--nodes", "0"], "--nodes=0: must be at least 1"),
        (["experiment=qwen3_4b_grpo", "--device", "a100"], "invalid choice: 'a100'"),
        (["experiment=toy_opd", "cluster.device=cpu"], "cluster.device=cpu: a plan is one of GPUs"),
        (["experiment=toy_opd", "cluster=local"], "cluster.runtime=local: one process shares one GPU"),
    ],
)
def test_what_cannot_be_planned_is_said_in_one_line(arguments, words, capsys):
    assert main(["plan", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and words in error


def test_an_unknown_model_can_be_given_the_shape_of_another(capsys, tmp_path):
    sizes = {"model_type": "qwen3", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2, "intermediate_size": 160, "vocab_size": 500, "head_dim": 16}
    (tmp_path / "config.json").write_text(json.dumps(sizes))
    for like in ("Qwen/Qwen3-8B", str(tmp_path)):
        assert main(["plan", "experiment=qwen3_4b_grpo", "model.path=some/model", "--shape", f"some/model={like}"]) == 0
    # 2 layers of 2 x 64 + 2 x 16 norms, 64 x 64 x 2 + 64 x 32 x 2 + 64 x 160 x 3 weights; two of 500 x 64; one norm.
    assert "0.00B parameters" in capsys.readouterr().out
    assert shape_of("model.path", str(tmp_path), {}).num_parameters == 2 * (160 + 12_288 + 30_720) + 64_000 + 64


def test_a_mixture_of_experts_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3_moe"}))
    with pytest.raises(ConfigError, match="model_type=qwen3_moe: planning knows dense models"):
        shape_of("model.path", str(tmp_path), {})


def test_a_search_for_what_never_fits_gives_up(monkeypatch):
    tried = []

    def never(config, cluster, models):
        tried.append(cluster.num_nodes)
        return replace(make_plan(config, cluster, models), problems=("too large",))

    monkeypatch.setattr(remedies, "make_plan", never)
    config = recipe("qwen2p5_32b_dapo", "rollout.max_response_len=200000")
    assert smallest_change(config, cluster("h100", 8), models_of(config, {})) is None
    # On 8 machines and on 16: the plan as it is, for its knobs, and 400 changes at most.
    assert {nodes: tried.count(nodes) for nodes in (8, 16)} == {8: 401, 16: 401}
