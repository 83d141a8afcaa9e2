"""UniSpeech-SAT: HuBERT's encoder, trained with utterance mixing and a speaker loss.

Paper: https://arxiv.org/abs/2110.05752. Upstream: microsoft/UniSpeech `UniSpeech-SAT` (40d3227).
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from zoo.models._family import Family, preset
from zoo.models._speech_encoder import SpeechEncoder, SpeechEncoderConfig

BASE = SpeechEncoderConfig(family="unispeech_sat", padding_rule="reshape", layerdrop=0.05)
LARGE = replace(
    BASE,
    extractor_norm="layer",
    num_layers=24,
    width=1024,
    ffn_width=4096,
    num_heads=16,
    norm_first=True,
    normalize=True,
    dropout=0.0,
)

PARAMETERS = {BASE: 94_370_944, LARGE: 315_434_112}
_preset = partial(
    preset, parameters=PARAMETERS, paper="https://arxiv.org/abs/2110.05752", licence="CC-BY-SA-3.0", confirmed=False
)
MIX = "Libri-Light 60 kh, GigaSpeech 10 kh, VoxPopuli 24 kh"

PRESETS = (
    _preset(
        "unispeech_sat_base", BASE, "LibriSpeech 960 h", "S3M:unispeech_sat_base.pt", "HF:microsoft/unispeech-sat-base"
    ),
    _preset(
        "unispeech_sat_base_plus", BASE, MIX, "S3M:unispeech_sat_base_plus.pt", "HF:microsoft/unispeech-sat-base-plus",
        aliases=("unispeech_sat",),
    ),
    _preset("unispeech_sat_large", LARGE, MIX, "S3M:unispeech_sat_large.pt", "HF:microsoft/unispeech-sat-large"),
    *(
        _preset(
            f"unispeech_sat_{size}_{task}", config, f"{data}, {what}",
            f"HF:microsoft/unispeech-sat-{size.replace('_', '-')}-{task}",
        )
        for size, config, data in (("base", BASE, "LibriSpeech 960 h"), ("base_plus", BASE, MIX), ("large", LARGE, MIX))
        for task, what in (("sv", "x-vectors on VoxCeleb"), ("sd", "speaker diarisation"))
    ),
    _preset(
        "unispeech_sat_base_ft_100h", BASE, "LibriSpeech 960 h, CTC on 100 h",
        "HF:microsoft/unispeech-sat-base-100h-libri-ft",
    ),
)  # fmt: skip

FAMILY = Family(
    name="unispeech_sat",
    config=SpeechEncoderConfig,
    model=SpeechEncoder,
    presets=PRESETS,
    names={"huggingface": ("unispeech-sat", "UniSpeechSat"), "torchaudio": ("wav2vec2_model",)},
    fixed={"microsoft": {"padding_rule": "reshape"}},
)
