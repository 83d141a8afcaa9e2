"""A tiny model of every released kind, with random weights."""

from __future__ import annotations

import dataclasses

from torch import nn

import zoo
from zoo.models._family import Model
from zoo.models._speech_encoder import SpeechEncoderConfig

STACK = tuple((16, kernel, stride) for _, kernel, stride in zoo.info("hubert_base").config.conv_layers)
# Presets of the shared encoder; other architectures have files of tests of their own.
SPEECH_ENCODERS = [name for name in zoo.list_models() if isinstance(zoo.info(name).config, SpeechEncoderConfig)]
WAVEFORM = (
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
SPECTRAL = ("tera", "tera_fbankBase_T_F_AdamW_b32_200k_100hr", "audio_albert")
BASELINES = ("fbank", "fbank_no_cmvn", "mfcc", "mel", "linear", "spectrogram")  # without layers and parameters
KINDS = (*WAVEFORM, *SPECTRAL)
# Pieces of TERA so short that every test's audio is cut.
SMALL = {"conv_layers": STACK, "num_layers": 2, "width": 32, "ffn_width": 64, "num_heads": 4, "chunk_frames": 20}


def fields(name: str) -> set[str]:
    """What can be set of a model's configuration."""
    return {field.name for field in dataclasses.fields(zoo.info(name).config)}


def dropouts(name: str, rate: float) -> dict[str, float]:
    """Every dropout that a model has, at one rate."""
    return {field: rate for field in sorted(fields(name)) if field.endswith("dropout")}


def tiny(name: str, **overrides: object) -> Model:
    """The architecture of a preset at width 32, with what is random in training off unless set."""
    small = {**SMALL, "layerdrop": 0.0}
    known = {field: value for field, value in small.items() if field in fields(name)}
    return zoo.build(name, **{**known, **dropouts(name, 0.0), **overrides})


def blocks(model: Model) -> nn.ModuleList:
    """The blocks of an encoder."""
    return model.encoder.layer if model.config.family == "tera" else model.encoder.layers


def train(model: Model) -> Model:
    """Training mode, but for batch norms: in training they normalise by the batch, in evaluation by what they know."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.eval()
    return model
