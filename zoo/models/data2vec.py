"""data2vec audio: a stack of five positional convolutions, layer norms throughout, post-norm also when large.

Paper: https://arxiv.org/abs/2202.03555. Upstream: fairseq `examples/data2vec/models/data2vec_audio.py` (3d262bb2, MIT).
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from zoo.models._family import Family, preset
from zoo.models._speech_encoder import SpeechEncoder, SpeechEncoderConfig

BASE = SpeechEncoderConfig(
    family="data2vec",
    extractor_norm="layer",
    pos_conv_kernel=19,
    pos_conv_norm="layer",
    pos_conv_depth=5,
    normalize=True,
    input_dropout=0.0,
    layerdrop=0.05,
)
LARGE = replace(BASE, num_layers=24, width=1024, ffn_width=4096, num_heads=16)

PARAMETERS = {BASE: 93_163_520, LARGE: 313_275_392}
_preset = partial(preset, parameters=PARAMETERS, paper="https://arxiv.org/abs/2202.03555")

PRESETS = (
    _preset(
        "data2vec_base_960", BASE, "LibriSpeech 960 h", "D2V:audio_base_ls.pt", "S3:audio_base_ls.pt",
        "HF:facebook/data2vec-audio-base", aliases=("data2vec",),
    ),
    _preset(
        "data2vec_large_ll60k", LARGE, "Libri-Light 60 kh", "D2V:vox_pretrained.pt", "S3:vox_pretrained.pt",
        "HF:facebook/data2vec-audio-large", confirmed=False,
    ),
    *(
        _preset(
            f"data2vec_{size}_ft_{amount}", config, f"{data}, CTC on {amount}", f"D2V:{file}_{amount}.pt",
            f"HF:facebook/data2vec-audio-{size}-{amount}", confirmed=size == "base",
        )
        for size, config, data, file in (
            ("base", BASE, "LibriSpeech 960 h", "audio_base_ls"),
            ("large", LARGE, "Libri-Light 60 kh", "vox"),
        )
        for amount in ("10m", "100h", "960h")
    ),
)  # fmt: skip

FAMILY = Family(
    name="data2vec",
    config=SpeechEncoderConfig,
    model=SpeechEncoder,
    presets=PRESETS,
    names={"fairseq": ("data2vec_audio",), "huggingface": ("data2vec-audio", "Data2VecAudio")},
    fixed={
        "fairseq": {"padding_rule": "length"},
        "huggingface": {"extractor_norm": "layer", "norm_first": False, "pos_conv_norm": "layer"},
    },
    fields={
        "huggingface": lambda get, shapes: {
            "pos_conv_kernel": get("conv_pos_kernel_size", 19),
            "pos_conv_depth": get("num_conv_pos_embeddings", 5),
        }
    },
    says={
        "fairseq": lambda config: {"_name": "data2vec_audio"},
        "huggingface": lambda config: {
            "conv_pos_kernel_size": config.pos_conv_kernel,
            "num_conv_pos_embeddings": config.pos_conv_depth,
        },
    },
)
