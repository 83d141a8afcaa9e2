"""data2vec 2.0 audio: data2vec's front end and positional convolutions, and blocks that attend to near frames more.

A bias that falls linearly with the distance of two frames (ALiBi) joins the attention scores of every block: each head
has its slope, multiplied by a learned scale that all blocks share. The released code calls the first blocks of the
large model its prenet; its fine-tuning counts them among the layers, and so does the zoo: hidden state 0 is what enters
the first of them, behind the encoder's norm, and no norm stands after the last block. Hidden states are outputs of
blocks; the reference's own `layer_results` are those of feed-forward layers, of the blocks behind the prenet alone.

Papers: https://arxiv.org/abs/2212.07525, ALiBi https://arxiv.org/abs/2108.12409. Upstream: fairseq
`examples/data2vec/models/data2vec2.py`, `modalities/{base,audio,modules}.py` (3d262bb2, MIT).

In training mode `dropout` is fairseq's `encoder_dropout`, `post_mlp_drop` and `prenet_dropout`, and `layerdrop` is also
its `prenet_layerdrop`: no recipe sets them apart. Stochastic depth, which no recipe of speech uses, is left out. Masked
frames show the mask embedding, which the files lack: it is made up as zeros, and zeros are what fairseq shows. The
decoder of pre-training is a head.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import ConfigError, cut, shown
from zoo.layers.attention import SelfAttention
from zoo.layers.transformer import PostNormEncoder, PostNormLayer, TransformerEncoder
from zoo.models._family import Family, is_one_of, preset
from zoo.models._speech_encoder import SpeechEncoder, SpeechEncoderConfig, positional_conv


@dataclass(frozen=True, kw_only=True)
class Data2vec2Config(SpeechEncoderConfig):
    """As `SpeechEncoderConfig`, of which blocks, positions and the norms of both are settled.

    Attributes:
        prenet_layers: how many of the `num_layers` blocks the released code calls the prenet. They compute what the
            others do; `input_dropout` acts behind them.
    """

    prenet_layers: int = 0

    def __post_init__(self) -> None:
        """Refuse what no model can be built from."""
        super().__post_init__()
        if not 0 <= self.prenet_layers < self.num_layers:
            raise ConfigError(
                f"prenet_layers is {self.prenet_layers}; it must lie from 0 to {self.num_layers - 1}, below num_layers"
            )
        settled = {"norm_first": False, "pos_conv_norm": "layer", "relative_buckets": 0, "adapter_width": 0}
        for name, value in settled.items():
            if (found := getattr(self, name)) != value:
                raise ConfigError(f"{name} is {shown(found)}; data2vec 2.0 has {value!r}")


def slopes(heads: int) -> list[float]:
    """How fast each head's bias falls: a geometric series from 2 ** (-8 / H) down to 2 ** -8.

    Where H is no power of two, the series of the power below it is filled up with every other one of the power above.
    """
    power = 1 << (heads.bit_length() - 1)
    series = [2.0 ** (-8.0 * i / power) for i in range(1, power + 1)]
    return series if power == heads else series + slopes(2 * power)[::2][: heads - power]


def _block(config: Data2vec2Config) -> PostNormLayer:
    attention = SelfAttention(config.width, config.num_heads, config.attention_dropout)
    sizes = (config.width, config.ffn_width, config.dropout, config.activation_dropout)
    block = PostNormLayer(*sizes, attention, nn.Identity())
    # The reference drops twice behind its second linear map: that is once, at the joint rate.
    block.feed_forward.output_dropout.p = 1.0 - (1.0 - config.dropout) * (1.0 - config.activation_dropout)
    return block


class Data2vec2Encoder(PostNormEncoder):
    """Post-norm blocks that share one bias."""

    def __init__(self, config: Data2vec2Config) -> None:
        super().__init__(
            width=config.width,
            layers=config.num_layers,
            dropout=config.dropout,
            layerdrop=config.layerdrop,
            pos_conv=positional_conv(config),
            layer=lambda index: _block(config),
        )
        self.slopes = slopes(config.num_heads)
        self.alibi_scale = nn.Parameter(torch.ones(config.num_heads, 1, 1))
        self.input_dropout = nn.Dropout(config.input_dropout)
        self.main = config.prenet_layers

    def distance_bias(self, frames: int, dtype: torch.dtype) -> Tensor:
        """(H, T, T): what is added to the scores of each query (row) and key (column)."""
        scale = self.alibi_scale.to(torch.promote_types(dtype, torch.float32)).clamp(min=0)
        slope = torch.tensor(self.slopes, dtype=scale.dtype, device=scale.device)[:, None, None]
        position = torch.arange(frames, device=scale.device)
        distance = (position[None, :] - position[:, None]).abs()
        return (slope * -distance * scale).to(dtype)

    def shared(self, x: Tensor, padded: Tensor | None, exact: bool) -> tuple[Tensor | None, ...]:
        """The bias, minus infinity where a key may not be looked at, (H, T, T) or (B, H, T, T); no other bias."""
        bias = self.distance_bias(x.shape[1], x.dtype)
        return (bias if padded is None else bias.masked_fill(padded[:, None, None, :], -math.inf)), None

    def _train_layer(self, layer: nn.Module, x: Tensor, *shared: Tensor | None) -> Tensor:
        """As in every encoder; what enters the first block behind the prenet has a dropout of its own."""
        return super()._train_layer(layer, self.input_dropout(x) if layer is self.layers[self.main] else x, *shared)


class Data2vec2(SpeechEncoder):
    """Waveforms to hidden states."""

    def __init__(self, config: Data2vec2Config) -> None:
        super().__init__(config)
        self.feature_projection.dropout = nn.Dropout(0.0)

    def make_encoder(self, config: SpeechEncoderConfig) -> TransformerEncoder:
        """The blocks with their bias."""
        if not isinstance(config, Data2vec2Config):
            raise ConfigError(f"data2vec 2.0 is built from a Data2vec2Config; found {type(config).__name__}")
        return Data2vec2Encoder(config)

    def blank(self, x: Tensor, mask: Tensor) -> Tensor:
        """As in every model, but for the reference's numbers: it lets the positional convolutions see the padding."""
        return super().blank(x, mask) if self.padding == "exact" else x


BASE = Data2vec2Config(
    family="data2vec2",
    extractor_norm="layer",
    pos_conv_kernel=19,
    pos_conv_norm="layer",
    pos_conv_depth=5,
    normalize=True,
    input_dropout=0.0,
    layerdrop=0.05,
)
LARGE = replace(BASE, num_layers=24, prenet_layers=8, width=1024, ffn_width=4096, num_heads=16, layerdrop=0.0)

PARAMETERS = {BASE: 93_163_532, LARGE: 313_275_408}
_preset = partial(preset, parameters=PARAMETERS, paper="https://arxiv.org/abs/2212.07525")

PRESETS = tuple(
    _preset(f"data2vec2_{name}", config, data + more, f"D2V2:{file}.pt")
    for size, config, plain, data, file in (
        ("base", BASE, "960", "LibriSpeech 960 h", "base_libri"),
        ("large", LARGE, "ll60k", "Libri-Light 60 kh", "large_vox"),
    )
    for name, more, file in (
        (f"{size}_{plain}", "", file),
        (f"{size}_ft_960h", ", CTC on 960 h of LibriSpeech", f"{file}_960h"),
    )
)

AUDIO = "modalities.audio."
# Field -> what an absent one means to fairseq, and the value under which it computes what is built here.
BUILT: Mapping[str, tuple[Any, Any]] = {
    "layer_norm_first": (False, False),
    "norm_eps": (1e-6, 1e-5),
    "norm_affine": (True, True),
    f"{AUDIO}num_extra_tokens": (0, 0),
    f"{AUDIO}conv_pos_pre_ln": (False, False),
    f"{AUDIO}use_alibi_encoder": (False, True),
    f"{AUDIO}learned_alibi": (False, False),
    f"{AUDIO}learned_alibi_scale_per_head": (False, True),
    f"{AUDIO}learned_alibi_scale_per_layer": (False, False),
}


def _fairseq_fields(get: Callable[[str, Any], Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """What fairseq's configuration says, which has a section for each modality."""
    modalities = sorted({match[1] for key in shapes if (match := re.search(r"modality_encoders\.(\w+)\.", key))})
    if modalities != ["AUDIO"]:
        raise ConfigError(
            f"it is data2vec 2.0 of {cut(' and '.join(modalities)) or 'no modality'}; "
            "supported is a model of AUDIO alone"
        )
    width, heads, depth, ratio = get("embed_dim", 768), get("num_heads", 12), get("depth", 8), get("mlp_ratio", 4)
    prenet = get(f"{AUDIO}prenet_depth", 4)
    for name, (default, value) in {**BUILT, f"{AUDIO}num_alibi_heads": (heads, heads)}.items():
        if not is_one_of(found := get(name, default), (value,)):
            raise ConfigError(f"{name} is {shown(found)}, but data2vec 2.0 is supported with {shown(value)} only")
    sizes = (width, depth, prenet, ratio)
    if not all(type(size) in (int, float) and 0 <= size < 1 << 20 for size in sizes):
        raise ConfigError(
            f"embed_dim, depth, prenet_depth and mlp_ratio are {shown(sizes)}; expected numbers of 0 or more"
        )
    return {"num_layers": prenet + depth, "prenet_layers": prenet, "ffn_width": int(width * ratio)}


def _fairseq_says(config: Data2vec2Config) -> dict[str, Any]:
    """The inverse of `_fairseq_fields`; no teacher is built."""
    return {
        "_name": "data2vec_multi",
        "supported_modality": "AUDIO",
        "skip_ema": True,
        "depth": config.num_layers - config.prenet_layers,
        "mlp_ratio": config.ffn_width / config.width,
        "post_mlp_drop": config.dropout,
        "dropout_input": config.input_dropout,
        f"{AUDIO}type": "AUDIO",
        f"{AUDIO}prenet_depth": config.prenet_layers,
        f"{AUDIO}prenet_dropout": config.dropout,
        f"{AUDIO}prenet_layerdrop": config.layerdrop,
        f"{AUDIO}learned_alibi_scale": True,
        f"{AUDIO}num_alibi_heads": config.num_heads,
        **{name: value for name, (_, value) in BUILT.items()},
    }


def _fairseq_rows(config: Data2vec2Config) -> tuple[tuple[str, str], ...]:
    """Keys of fairseq, which counts the blocks behind the prenet from 0."""
    front = "modality_encoders.AUDIO."
    prenet = config.prenet_layers
    blocks = [(f"{front}context_encoder.blocks.{n}", n) for n in range(prenet)]
    blocks += [(f"blocks.{n}", prenet + n) for n in range(config.num_layers - prenet)]
    parts = (
        *((f"attn.qkv.{{wb}}[{i}]", f"attention.{name}_proj.{{wb}}") for i, name in enumerate("qkv")),
        ("attn.proj.{wb}", "attention.out_proj.{wb}"),
        ("norm1.{wb}", "layer_norm.{wb}"),
        ("mlp.fc1.{wb}", "feed_forward.intermediate_dense.{wb}"),
        ("mlp.fc2.{wb}", "feed_forward.output_dense.{wb}"),
        ("norm2.{wb}", "final_layer_norm.{wb}"),
    )
    return (
        (f"{front}local_encoder.conv_layers.{{m}}.0.{{wb}}", "feature_extractor.conv_layers.{m}.conv.{wb}"),
        (f"{front}local_encoder.conv_layers.{{m}}.2.1.{{wb}}", "feature_extractor.conv_layers.{m}.layer_norm.{wb}"),
        (f"{front}project_features.1.{{wb}}", "feature_projection.layer_norm.{wb}"),
        (f"{front}project_features.2.{{wb}}", "feature_projection.projection.{wb}"),
        *(
            (f"{front}relative_positional_encoder.{i + 1}.0.{{wb}}", f"encoder.pos_conv_embed.layers.{i}.conv.{{wb}}")
            for i in range(config.pos_conv_depth)
        ),
        (f"{front}context_encoder.norm.{{wb}}", "encoder.layer_norm.{wb}"),
        (f"{front}alibi_scale", "encoder.alibi_scale"),
        *((f"{key}.{part}", f"encoder.layers.{n}.{name}") for key, n in blocks for part, name in parts),
        (f"{front}decoder.{{rest}}", "heads.decoder.{rest}"),
        ("shared_decoder.{rest}", "heads.shared_decoder.{rest}"),
        ("recon_proj.{rest}", "heads.recon_proj.{rest}"),
    )


MASK = "stood for hidden frames in training with an earlier version of the code"

FAMILY = Family(
    name="data2vec2",
    config=Data2vec2Config,
    model=Data2vec2,
    presets=PRESETS,
    names={"fairseq": ("data2vec_multi",)},
    fixed={"fairseq": {"padding_rule": "length"}},
    fields={"fairseq": _fairseq_fields},
    places={
        "fairseq": {
            "extractor_mode": (f"{AUDIO}extractor_mode", "layer_norm"),
            "conv_feature_layers": (
                f"{AUDIO}feature_encoder_spec", "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)] + [(512,2,2)]"
            ),
            "conv_pos": (f"{AUDIO}conv_pos_width", 95),
            "conv_pos_groups": (f"{AUDIO}conv_pos_groups", 16),
            "pos_conv_depth": (f"{AUDIO}conv_pos_depth", 5),
            "encoder_embed_dim": ("embed_dim", 768),
            "encoder_attention_heads": ("num_heads", 12),
            "dropout": ("encoder_dropout", 0.1),
            "encoder_layerdrop": ("layerdrop", 0.0),
        }
    },
    says={"fairseq": _fairseq_says},
    rows={"fairseq": _fairseq_rows},
    drops={"fairseq": (("modality_encoders.AUDIO.encoder_mask", MASK),)},
)  # fmt: skip
