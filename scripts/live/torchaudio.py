"""torchaudio: the module that the factory of a file builds, filled by torch's own strict loading."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torchaudio
from torch import Tensor
from torch.nn import functional as F

from tests.golden.live.torchaudio import runner

TARGET = "torchaudio"


def load(path: Path, work: Path) -> Callable[[Tensor], list[Tensor]]:
    """A run of the model in a file that zoo.convert wrote."""
    file: dict[str, Any] = torch.load(path, weights_only=True)
    model = getattr(torchaudio.models, file["factory"])(**file["arguments"]).eval()
    model.load_state_dict(file["state_dict"], strict=True)
    states = runner(model, file["arguments"]["encoder_layer_norm_first"])

    def prepare(waveform: Tensor) -> Tensor:
        """(1, S), normalised as torchaudio's pipelines do it."""
        return F.layer_norm(waveform, waveform.shape)[None] if file["normalize"] else waveform[None]

    def run(waveform: Tensor) -> list[Tensor]:
        return states(prepare(waveform), None).states

    run.kind = file["factory"]  # type: ignore[attr-defined]
    if model.aux is not None:
        run.logits = lambda waveform: model(prepare(waveform))[0]  # type: ignore[attr-defined]
    return run
