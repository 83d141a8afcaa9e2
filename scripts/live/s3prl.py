"""s3prl: the expert of the file's upstream, which loads strictly; TERA's does not, and prints what it misses.

Its environment has no sox and an older name for a function of torchaudio's missing; tests/golden/make_s3prl.py helps.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.append(str(Path(__file__).resolve().parents[2] / "tests" / "golden"))

import make_s3prl  # noqa: F401 (it gives torchaudio the names that s3prl asks for)

TARGET = "s3prl"
UPSTREAMS = {"wav2vec2": "wav2vec2", "hubert": "hubert", "data2vec_audio": "data2vec"}  # by the name of the class


class Loaded:
    """An upstream of s3prl."""

    def __init__(self, expert: Any, upstream: str) -> None:
        self.expert, self.kind = expert, f"{upstream}.{type(expert).__name__}"
        self.entry: list[Tensor] = []
        if upstream == "distiller":  # which lists the projection where others list what enters the first layer
            first = expert.model.model.encoder.layers[0]
            first.register_forward_pre_hook(lambda module, args: self.entry.append(args[0].transpose(0, 1)))

    def __call__(self, waveform: Tensor) -> list[Tensor]:
        self.entry.clear()
        states = list(self.expert([waveform])["hidden_states"])
        if self.entry:
            return [self.entry[0], *states[1 : 1 + self.expert.model.model_config.encoder_layers]]
        return states


def load(path: Path, work: Path) -> Loaded:
    content = torch.load(path, weights_only=True)
    if "model_weight" in content:
        upstream = UPSTREAMS[content["model_cfg"]["_name"]]
    elif "model" in content:
        upstream = "wavlm" if content["cfg"]["relative_position_embedding"] else "unispeech_sat"
    else:
        upstream = "distiller" if "Distiller" in content else "mockingjay"
    module = importlib.import_module(f"s3prl.upstream.{upstream}.expert")
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            expert = module.UpstreamExpert(str(path))
    except Exception as error:  # whatever it is, it is s3prl's complaint
        raise AssertionError(f"{type(error).__name__}: {error}") from error
    assert "Weights" not in said.getvalue(), said.getvalue()
    return Loaded(expert.eval(), upstream)
