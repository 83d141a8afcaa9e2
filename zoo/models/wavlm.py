"""WavLM: HuBERT's encoder with a gated relative position bias.

Paper: https://arxiv.org/abs/2110.13900. Upstream: microsoft/unilm and microsoft/UniSpeech `WavLM/WavLM.py` (40d3227).
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from zoo.models._family import REISSUED, Family, Source, preset, source
from zoo.models._speech_encoder import SpeechEncoder, SpeechEncoderConfig

BASE = SpeechEncoderConfig(family="wavlm", padding_rule="reshape", relative_buckets=320, layerdrop=0.05)
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

PARAMETERS = {BASE: 94_381_168, LARGE: 315_452_096}
_preset = partial(
    preset,
    parameters=PARAMETERS,
    paper="https://arxiv.org/abs/2110.13900",
    licence="NOASSERTION",
    licence_notes="CC-BY-SA-3.0 by the UniSpeech repository, MIT by unilm, which hosted the files first, and by "
    "torchaudio; the cards at Hugging Face say nothing",
)
MIX = "Libri-Light 60 kh, GigaSpeech 10 kh, VoxPopuli 24 kh"

DRIVE = "a page for browsers, whose file is reported gone (microsoft/UniSpeech issue 56)"


def _originals(file: str, drive: str) -> tuple[Source, Source]:
    return (
        source(f"MS:wavlm/unispeech_repo/{file}.pt", dead=REISSUED),
        source(f"MSD:{drive}/view", dead=DRIVE),
    )


PRESETS = (
    _preset(
        "wavlm_base", BASE, "LibriSpeech 960 h", "S3M:wavlm_base.pt", "HF:microsoft/wavlm-base", "TA:wavlm_base.pth",
        *_originals("WavLM-Base", "1BhTPLUkfN6e2xkqR8LEm9lByXbLY1IYd"), aliases=("WAVLM_BASE",),
    ),
    _preset(
        "wavlm_base_plus", BASE, MIX, "S3M:wavlm_base_plus.pt", "HF:microsoft/wavlm-base-plus",
        "TA:wavlm_base_plus.pth", *_originals("WavLM-Base+", "1-zlAj2SyVJVsbhifwpTlAfrgc9qu-HDb"),
        aliases=("wavlm", "WAVLM_BASE_PLUS"),
    ),
    _preset(
        "wavlm_large", LARGE, MIX, "S3M:wavlm_large.pt", "HF:microsoft/wavlm-large", "TA:wavlm_large.pth",
        *_originals("WavLM-Large", "12-cB34qCTvByWT-QtOcZaqwwO21FLSqU"), aliases=("WAVLM_LARGE",),
    ),
    *(
        _preset(
            f"wavlm_{size}_{task}", BASE, f"{data}, {what}", f"HF:microsoft/wavlm-{size.replace('_', '-')}-{task}"
        )
        for size, data in (("base", "LibriSpeech 960 h"), ("base_plus", MIX))
        for task, what in (("sv", "x-vectors on VoxCeleb"), ("sd", "speaker diarisation"))
    ),
)  # fmt: skip

FAMILY = Family(
    name="wavlm",
    config=SpeechEncoderConfig,
    model=SpeechEncoder,
    presets=PRESETS,
    names={"huggingface": ("wavlm", "WavLM"), "torchaudio": ("wavlm_model",)},
    fixed={"microsoft": {"padding_rule": "reshape"}, "huggingface": {"adapter_width": 0}},
    fields={
        "huggingface": lambda get, shapes: {
            "relative_buckets": get("num_buckets", 320),
            "relative_max_distance": get("max_bucket_distance", 800),
        }
    },
    says={
        "huggingface": lambda config: {
            "num_buckets": config.relative_buckets,
            "max_bucket_distance": config.relative_max_distance,
        }
    },
    rows={
        "microsoft": (
            (
                "encoder.layers.0.self_attn.relative_attention_bias.weight",
                "encoder.layers.0.attention.rel_attn_embed.weight",
            ),
            ("encoder.layers.{n}.self_attn.grep_linear.{wb}", "encoder.layers.{n}.attention.gru_rel_pos_linear.{wb}"),
            ("encoder.layers.{n}.self_attn.grep_a", "encoder.layers.{n}.attention.gru_rel_pos_const"),
        )
    },
)
