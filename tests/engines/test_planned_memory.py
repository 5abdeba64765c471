"""What `effopd plan` says a learner rank needs, against what DeepSpeed and autograd allocate on a CPU: within a tenth."""

import sys
from pathlib import Path

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

sys.path.insert(0, str(Path(__file__).parent))
import memory_cases
from learner_lab import DTYPES, STAGES, Lab

from effopd.config.schema import AccelerateConfig, Dtype, GateKind, LearnerConfig, MovedParameters, RunConfig
from effopd.plan.activations import MicroBatch
from effopd.plan.hardware import GPUS
from effopd.plan.layout import layout_of
from effopd.plan.learner_memory import FRAGMENTATION, RESERVED_BYTES, learner_memory, sharded_state, trigger_bytes
from effopd.plan.shapes import ModelShape, shape_of

TOLERANCE = 0.1
VOCABULARY = 1200


@pytest.fixture(scope="module")
def models(lab: Lab) -> dict[str, str]:
    """Random models whose layers, head and norms all count."""
    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "tie_word_embeddings": False,
    }
    torch.manual_seed(0)
    folders = {"qwen3": lab.folder / "planned_qwen3", "qwen2": lab.folder / "planned_qwen2"}
    Qwen3ForCausalLM(Qwen3Config(head_dim=16, **sizes)).save_pretrained(folders["qwen3"])
    Qwen2ForCausalLM(Qwen2Config(**sizes)).save_pretrained(folders["qwen2"])
    return {name: str(folder) for name, folder in folders.items()}


def shape(folder: str) -> ModelShape:
    return shape_of("model.path", folder, {})


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("stage", STAGES)
def test_the_state_of_a_rank_is_as_planned(lab, models, stage, dtype):
    student = shape(models["qwen3"])
    planned = sharded_state(student.num_parameters, LearnerConfig(zero_stage=stage, dtype=Dtype(dtype)))
    # The learner of these tests moves the matrices of the layers, as `matrices` does.
    config = RunConfig(accelerate=AccelerateConfig(gate=GateKind.accuracy, moved=MovedParameters.matrices))
    anchor, previous = trigger_bytes(config, student)
    (measured,) = lab.pools[1].run(memory_cases.state, model=models["qwen3"], stage=stage, dtype=dtype)
    expected = {
        "weights": planned.weights,
        "gradients": planned.gradients,
        "masters": planned.masters,
        "moments": planned.moments,
        "anchor": anchor.num_bytes,
        "previous_displacement": previous.num_bytes,
    }
    assert measured == pytest.approx(expected, rel=TOLERANCE)


ONE_ROW = [256, 256]
"""Of each of two micro-batches, so that the gradients of the first are there during the second."""
TWO_ROWS = [128, 120, 112, 104]
"""Of unequal length in either micro-batch, so that there is padding and a mask."""
PACKED = [100, 116, 92, 140, 64]
"""By first fit two full micro-batches, 140 + 116 and 100 + 92 + 64."""
MICRO_BATCH = 256


@pytest.mark.parametrize(
    ("family", "stage", "dtype", "lengths", "settings"),
    [
        ("qwen3", 0, "float32", ONE_ROW, {}),
        ("qwen3", 0, "bfloat16", ONE_ROW, {"logit_chunk_tokens": 32}),
        ("qwen3", 0, "bfloat16", TWO_ROWS, {"logit_chunk_tokens": 32}),
        ("qwen2", 0, "bfloat16", ONE_ROW, {"logit_chunk_tokens": 32}),
        ("qwen3", 0, "float32", ONE_ROW, {"logit_chunk_tokens": 8, "activation_checkpointing": True}),
        ("qwen3", 1, "bfloat16", ONE_ROW, {"logit_chunk_tokens": 8, "activation_checkpointing": True}),
        ("qwen3", 2, "bfloat16", ONE_ROW, {"logit_chunk_tokens": 32}),
        ("qwen3", 3, "bfloat16", ONE_ROW, {"logit_chunk_tokens": 32}),
        ("qwen3", 0, "float32", PACKED, {"packing": True}),
        ("qwen3", 0, "bfloat16", PACKED, {"logit_chunk_tokens": 32, "packing": True}),
        ("qwen2", 0, "bfloat16", PACKED, {"logit_chunk_tokens": 32, "packing": True}),
        ("qwen3", 0, "float32", PACKED, {"logit_chunk_tokens": 8, "activation_checkpointing": True, "packing": True}),
    ],
)
def test_an_update_allocates_what_was_planned(lab, models, family, stage, dtype, lengths, settings):
    config = RunConfig(learner=LearnerConfig(zero_stage=stage, dtype=Dtype(dtype), **settings))
    student = shape(models[family])
    batch = MicroBatch(num_tokens=MICRO_BATCH, row_length=lengths[0], is_masked=lengths == TWO_ROWS)
    if lengths == PACKED:
        batch = MicroBatch(num_tokens=MICRO_BATCH, row_length=MICRO_BATCH, is_masked=False, is_packed=True)
    role = learner_memory(config, layout_of(config), student, None, GPUS["h100"], (batch,))
    state = sharded_state(student.num_parameters, config.learner)
    # Before an update there are weights, masters and moments, and stage 3 has its reduce bucket.
    standing = state.weights + state.masters + state.moments + (state.reduce_bucket if stage == 3 else 0)
    # Stages 1 and 3 keep their sums of gradients from step to step; what stage 1 adds are the newest.
    kept = {1: 4 * student.num_parameters, 3: state.gradients}.get(stage, 0)
    come_and_go = role.worst.num_bytes / (1 + FRAGMENTATION)
    planned = role.num_bytes - role.worst.num_bytes + come_and_go - RESERVED_BYTES - standing - kept
    (measured,) = lab.pools[1].run(
        memory_cases.update,
        model=models[family],
        stage=stage,
        dtype=dtype,
        lengths=lengths,
        max_tokens_per_microbatch=MICRO_BATCH,
        **settings,
    )
    assert measured == pytest.approx(planned, rel=TOLERANCE)
