"""Weights of a model folder in a segment, for samplers that no learner feeds."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from effopd.engines.policy_module import load_causal_lm
from effopd.types import PolicyVersion, Publication
from effopd.weights import SegmentWriter

BUCKET_BYTES = 512 * 2**20


def stage_folder(folder: Path, dtype: torch.dtype, segment_folder: Path) -> tuple[SegmentWriter, Publication]:
    """Write the model's weights to the segment as version 0.0. The caller closes the writer when samplers have loaded."""
    model = load_causal_lm(str(folder), dtype, "sdpa")
    named = list(model.named_parameters())  # a tied head comes once, under the embedding's name

    def tensors() -> Iterator[tuple[str, Tensor]]:
        for name, parameter in named:
            yield name, parameter.detach()

    writer = SegmentWriter(segment_folder)
    layout = [(name, dtype, tuple(parameter.shape)) for name, parameter in named]
    return writer, writer.write(PolicyVersion(step=0), tensors(), layout=layout, bucket_bytes=BUCKET_BYTES)
