"""UniSpeech-SAT: HuBERT's encoder, trained with utterance mixing and a speaker loss.

Paper: https://arxiv.org/abs/2110.05752. Upstream: microsoft/UniSpeech `UniSpeech-SAT` (40d3227).
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from zoo.models._family import REISSUED, Family, preset, source
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
    preset,
    parameters=PARAMETERS,
    paper="https://arxiv.org/abs/2110.05752",
    licence="CC-BY-SA-3.0",
    licence_notes="by the repository's licence file, which does not mention the weights",
    confirmed=False,
)
MIX = "Libri-Light 60 kh, GigaSpeech 10 kh, VoxPopuli 24 kh"

PRESETS = (
    *(
        _preset(
            f"unispeech_sat_{size}", config, data, f"S3M:unispeech_sat_{size}.pt",
            f"HF:microsoft/unispeech-sat-{size.replace('_', '-')}",
            source(f"MS:unispeech-sat/unispeech_repo/UniSpeech-SAT-{file}.pt", dead=REISSUED), aliases=aliases,
            notes=notes,
        )
        for size, config, data, file, aliases, notes in (
            ("base", BASE, "LibriSpeech 960 h", "Base", (), ""),
            ("base_plus", BASE, MIX, "Base+", ("unispeech_sat",),
             "s3prl's unispeech_sat is this one in its code, and the base model in its documentation"),
            ("large", LARGE, MIX, "Large", (), ""),
        )
    ),
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
