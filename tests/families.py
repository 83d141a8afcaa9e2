"""A tiny model of every released kind, with random weights."""

from __future__ import annotations

from torch import nn

import zoo
from zoo.models._family import Model
from zoo.models._speech_encoder import SpeechEncoderConfig

STACK = tuple((16, kernel, stride) for _, kernel, stride in zoo.info("hubert_base").config.conv_layers)
# Presets of the shared encoder; other architectures have files of tests of their own.
SPEECH_ENCODERS = [name for name in zoo.list_models() if isinstance(zoo.info(name).config, SpeechEncoderConfig)]
KINDS = (
    "wav2vec2_base_960",
    "wav2vec2_large_ll60k",
    "mms_1b_all",
    "hubert_base",
    "hubert_large_ll60k",
    "distilhubert_base",
    "data2vec_base_960",
    "data2vec2_base_960",
    "wavlm_base",
    "wavlm_large",
    "unispeech_large_en",
    "unispeech_sat_base",
    "unispeech_sat_large",
    "wav2vec2_conformer_relpos",
    "wav2vec2_conformer_rope",
)


def tiny(name: str, **overrides: object) -> Model:
    """The architecture of a preset at width 32, with dropouts off unless set."""
    small = {"conv_layers": STACK, "num_layers": 2, "width": 32, "ffn_width": 64, "num_heads": 4}
    off = dict.fromkeys(("dropout", "attention_dropout", "activation_dropout", "input_dropout", "layerdrop"), 0.0)
    return zoo.build(name, **{**small, **off, **overrides})


def train(model: Model) -> Model:
    """Training mode, but for batch norms: in training they normalise by the batch, in evaluation by what they know."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.eval()
    return model
