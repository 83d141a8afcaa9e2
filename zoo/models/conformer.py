"""wav2vec 2.0 with Conformer blocks, relative or rotary positions.

Papers: Conformer https://arxiv.org/abs/2005.08100, fairseq S2T https://arxiv.org/abs/2010.05171, relative positions
https://arxiv.org/abs/1901.02860 (section 3.3), rotary positions https://arxiv.org/abs/2104.09864.
Upstream: fairseq `wav2vec2.py`, `conformer_layer.py`, `rotary_positional_embedding.py`, `positional_encoding.py`
(3d262bb2, MIT) and `espnet_multihead_attention.py` (after ESPnet, Apache-2.0); transformers 5.23
`modeling_wav2vec2_conformer.py` (Apache-2.0).

The convolution module has a batch norm: in training mode its statistics run over all frames of a batch, padding
included, as they do in fairseq.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.errors import ConfigError, shown
from zoo.layers.conv import NORM_EPS
from zoo.layers.transformer import FeedForward, PostNormEncoder, PreNormEncoder, TransformerEncoder
from zoo.models._family import Family, preset
from zoo.models._speech_encoder import SpeechEncoder, SpeechEncoderConfig, positional_conv

BASE_FREQUENCY = 10000.0


@dataclass(frozen=True, kw_only=True)
class ConformerConfig(SpeechEncoderConfig):
    """As `SpeechEncoderConfig`; the positional convolution has weights in every file, but nothing is computed with it.

    Attributes:
        positions: "relative": a learned map of a sinusoidal table joins the attention scores; "rotary": the input of
            attention is rotated by an angle that grows with the frame, before queries and keys are projected.
        depthwise_kernel: taps of the convolution modules, odd.
        conv_dropout: at the end of the convolution modules, in training mode only.
    """

    positions: Literal["relative", "rotary"] = "relative"
    depthwise_kernel: int = 31
    conv_dropout: float = 0.1

    def __post_init__(self) -> None:
        """Refuse what no model can be built from."""
        super().__post_init__()
        if not (1 <= self.depthwise_kernel <= 4096 and self.depthwise_kernel % 2):
            raise ConfigError(f"depthwise_kernel is {self.depthwise_kernel}; it must be odd, from 1 to 4095")
        if not 0 <= self.conv_dropout <= 1:
            raise ConfigError(f"configuration field 'conv_dropout' is {self.conv_dropout}; it must lie from 0 to 1")
        if self.relative_buckets:
            raise ConfigError(f"relative_buckets is {self.relative_buckets}; a Conformer has no distance buckets")
        halved = self.width if self.positions == "relative" else self.width // self.num_heads
        if halved % 2:
            raise ConfigError(f"{self.positions} positions are pairs of sine and cosine; {halved} channels are odd")


class SwishFeedForward(FeedForward):
    """Linear, swish, linear."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        x = self.intermediate_dropout(F.silu(self.intermediate_dense(x)))
        out: Tensor = self.output_dropout(self.output_dense(x))
        return out


class ConformerAttention(nn.Module):
    """What both kinds of attention share: projections with biases, scores over sqrt(K)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.linear_q = nn.Linear(width, width)
        self.linear_k = nn.Linear(width, width)
        self.linear_v = nn.Linear(width, width)
        self.linear_out = nn.Linear(width, width)

    def split(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, H, T, K)."""
        return torch.unflatten(x, 2, (self.heads, -1)).transpose(1, 2)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """(B, H, T, K) each, and a boolean or additive mask -> (B, T, D)."""
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=self.dropout if self.training else 0.0)
        # Heads side by side. A view would do, but an exported graph would then hold one kernel's memory layout.
        out: Tensor = self.linear_out(torch.cat(y.unbind(1), 2))
        return out


class RelativeAttention(ConformerAttention):
    """Scores are (q + u) . k + (q + v) . p, where p is the projected embedding of the distance of query and key."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__(width, heads, dropout)
        self.linear_pos = nn.Linear(width, width, bias=False)
        self.pos_bias_u = nn.Parameter(nn.init.xavier_uniform_(torch.empty(heads, width // heads)))
        self.pos_bias_v = nn.Parameter(nn.init.xavier_uniform_(torch.empty(heads, width // heads)))

    def forward(self, x: Tensor, allowed: Tensor | None, positions: Tensor) -> Tensor:
        """Attend within each utterance.

        Args:
            x: (B, T, D).
            allowed: boolean (B, 1, 1, T), True where a key may be looked at; None: everywhere.
            positions: (2T - 1, D), the embeddings of distances (query minus key) from T - 1 down to 1 - T.

        Returns:
            (B, T, D).
        """
        q, k, v = (self.split(proj(x)) for proj in (self.linear_q, self.linear_k, self.linear_v))
        p = self.split(self.linear_pos(positions)[None])
        scores = (q + self.pos_bias_v[:, None, :]) @ p.transpose(2, 3)  # (B, H, T, 2T - 1)
        mask = by_key(scores) / math.sqrt(q.shape[3])
        if allowed is not None:
            mask = mask.masked_fill(~allowed, -math.inf)
        return self.attend(q + self.pos_bias_u[:, None, :], k, v, mask)


def by_key(scores: Tensor) -> Tensor:
    """Scores (B, H, T, 2T - 1) by query and distance, from T - 1 down to 1 - T -> (B, H, T, T) by query and key."""
    frames = scores.shape[2]
    position = torch.arange(frames, device=scores.device)
    column = position[None, :] - position[:, None] + frames - 1
    return scores.gather(3, column.expand(*scores.shape[:2], -1, -1))


class RotaryAttention(ConformerAttention):
    """Queries and keys are projections of the rotated input, values of the input itself."""

    def forward(self, x: Tensor, allowed: Tensor | None, positions: Tensor) -> Tensor:
        """As `RelativeAttention.forward`, with positions (2, T, 1, K): cosine and sine of each frame's angles."""
        cos, sin = positions
        per_head = torch.unflatten(x, 2, (self.heads, -1))  # (B, T, H, K)
        first, second = per_head.chunk(2, 3)
        rotated = (per_head * cos + torch.cat((-second, first), 3) * sin).flatten(2)
        q, k, v = self.split(self.linear_q(rotated)), self.split(self.linear_k(rotated)), self.split(self.linear_v(x))
        return self.attend(q, k, v, allowed)


class RelativePositions(nn.Module):
    """Sinusoidal embeddings of distances."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        """The table (2T - 1, D) for an input (B, T, D), from distance T - 1 down to 1 - T."""
        frames = x.shape[1]
        # fp32 and this order of operations: far from the start, other roundings are other angles.
        distance = torch.arange(frames - 1, -frames, -1, device=x.device).float()
        step = -(math.log(BASE_FREQUENCY) / self.width)
        angles = distance[:, None] * torch.exp(torch.arange(0, self.width, 2, device=x.device).float() * step)
        return torch.stack((angles.sin(), angles.cos()), 2).flatten(1).to(x.dtype)


def frequencies(size: int) -> Tensor:
    """(K / 2,) angle from one frame to the next of each pair of channels, for heads of `size` K."""
    inverse: Tensor = 1.0 / (BASE_FREQUENCY ** (torch.arange(0, size, 2).float() / size))
    return inverse


class RotaryPositions(nn.Module):
    """Angles of rotation. The frequencies are a file's own where it has them, as it may have rounded them."""

    inv_freq: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("inv_freq", frequencies(size))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> RotaryPositions:
        """Move with the model but keep fp32: half precision would turn late frames by another angle."""
        before = self.inv_freq
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.inv_freq.dtype != before.dtype:
            self.inv_freq = before.to(self.inv_freq.device)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Cosines and sines (2, T, 1, K) for an input (B, T, D)."""
        angles = torch.arange(x.shape[1], device=x.device).float()[:, None] * self.inv_freq
        angles = torch.cat((angles, angles), 1)[:, None, :]
        return torch.stack((angles.cos(), angles.sin())).to(x.dtype)


class PointwiseConv1d(nn.Conv1d):
    """Convolution of one tap without bias, computed as the linear map that it is."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__(channels_in, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C')."""
        return F.linear(x, self.weight[:, :, 0])


class ConvolutionModule(nn.Module):
    """Norm, pointwise convolution with a gate, depthwise convolution, batch norm, swish, pointwise convolution."""

    def __init__(self, width: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.pointwise_conv1 = PointwiseConv1d(width, 2 * width)
        self.depthwise_conv = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width, bias=False)
        self.batch_norm = nn.BatchNorm1d(width)
        self.pointwise_conv2 = PointwiseConv1d(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, outside: Tensor | None) -> Tensor:
        """(B, T, D) -> (B, T, D); frames `outside` (B, T, 1) an utterance are zero for its neighbours."""
        y = F.glu(self.pointwise_conv1(self.layer_norm(x)), 2)
        if outside is not None:
            y = y.masked_fill(outside, 0.0)
        y = F.silu(self.batch_norm(self.depthwise_conv(y.transpose(1, 2))))
        out: Tensor = self.dropout(self.pointwise_conv2(y.transpose(1, 2)))
        return out


class ConformerLayer(nn.Module):
    """Half a feed-forward layer, attention, convolution, half a feed-forward layer, norm."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        width, dropouts = config.width, (config.dropout, config.activation_dropout)
        attention = {"relative": RelativeAttention, "rotary": RotaryAttention}[config.positions]
        self.ffn1_layer_norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.ffn1 = SwishFeedForward(width, config.ffn_width, *dropouts)
        self.self_attn_layer_norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.self_attn_dropout = nn.Dropout(config.attention_dropout)
        self.self_attn = attention(width, config.num_heads, config.attention_dropout)
        self.conv_module = ConvolutionModule(width, config.depthwise_kernel, config.conv_dropout)
        self.ffn2_layer_norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.ffn2 = SwishFeedForward(width, config.ffn_width, *dropouts)
        self.final_layer_norm = nn.LayerNorm(width, eps=NORM_EPS)

    def forward(self, x: Tensor, allowed: Tensor | None, positions: Tensor, outside: Tensor | None) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        x = x + 0.5 * self.ffn1(self.ffn1_layer_norm(x))
        x = x + self.self_attn_dropout(self.self_attn(self.self_attn_layer_norm(x), allowed, positions))
        x = x + self.conv_module(x, outside)
        x = x + 0.5 * self.ffn2(self.ffn2_layer_norm(x))
        out: Tensor = self.final_layer_norm(x)
        return out


class ConformerEncoder(TransformerEncoder):
    """A stack of Conformer blocks; the two children differ in where the encoder's own norm stands."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__(
            width=config.width,
            layers=config.num_layers,
            dropout=config.dropout,
            layerdrop=config.layerdrop,
            pos_conv=positional_conv(config),
            layer=lambda index: ConformerLayer(config),
        )
        self.pos_conv_embed.requires_grad_(False)
        if config.positions == "rotary":
            self.embed_positions: nn.Module = RotaryPositions(config.width // config.num_heads)
        else:
            self.embed_positions = RelativePositions(config.width)

    def add_positions(self, x: Tensor, padded: Tensor | None) -> Tensor:
        """Nothing: positions enter in attention."""
        return x

    def shared(self, x: Tensor, padded: Tensor | None, exact: bool) -> tuple[Tensor | None, ...]:
        """Allowed keys, positions, and what the convolutions must not see: no reference hides anything from them."""
        allowed = None if padded is None else ~padded[:, None, None, :]
        outside = padded[:, :, None] if exact and padded is not None else None
        return allowed, self.embed_positions(x), outside


class PreNormConformer(ConformerEncoder, PreNormEncoder):
    """The encoder's norm stands after the last block."""


class PostNormConformer(ConformerEncoder, PostNormEncoder):
    """The encoder's norm stands before the first block."""


class Conformer(SpeechEncoder):
    """Waveforms to hidden states."""

    def make_encoder(self, config: SpeechEncoderConfig) -> TransformerEncoder:
        """The blocks; a Conformer's instead of a transformer's."""
        if not isinstance(config, ConformerConfig):
            raise ConfigError(f"a Conformer is built from a ConformerConfig; found {type(config).__name__}")
        return PreNormConformer(config) if config.norm_first else PostNormConformer(config)


RELATIVE = ConformerConfig(
    family="wav2vec2_conformer",
    extractor_norm="layer",
    conv_bias=True,
    num_layers=24,
    width=1024,
    ffn_width=4096,
    num_heads=16,
    norm_first=True,
    normalize=True,
    dropout=0.0,
    attention_dropout=0.0,
    input_dropout=0.0,
    conv_dropout=0.0,
)
ROTARY = replace(RELATIVE, positions="rotary")

PARAMETERS = {RELATIVE: 618_558_080, ROTARY: 593_343_104}
_preset = partial(preset, parameters=PARAMETERS, paper="https://arxiv.org/abs/2010.05171")

PRESETS = (
    *(
        _preset(
            f"wav2vec2_conformer_{name}", config, "Libri-Light 60 kh", f"FBC:LL_{name}_PT_no_FT",
            f"S3:LL_{name}_PT_no_FT.pt", f"HF:facebook/wav2vec2-conformer-{repository}-large",
        )
        for name, config, repository in (("relpos", RELATIVE, "rel-pos"), ("rope", ROTARY, "rope"))
    ),
    *(
        _preset(
            f"wav2vec2_conformer_{name}_ft_{amount}", config,
            f"Libri-Light 60 kh, CTC on {amount} of LibriSpeech", f"FBC:LL_{name}_PT_{amount}_FT.pt",
            f"HF:facebook/wav2vec2-conformer-{repository}-large-{amount}-ft",
        )
        for name, config, repository in (("relpos", RELATIVE, "rel-pos"), ("rope", ROTARY, "rope"))
        for amount in ("100h", "960h")
    ),
    *(
        _preset(
            f"wav2vec2_conformer_large_s2st_{language}_{corpus}", RELATIVE, data, f"FBS:{language}/conformer_L.pt",
            f"S3:wav2vec2_conformer_large_s2st_{language}_{corpus}.pt", confirmed=False,
            paper="https://arxiv.org/abs/2204.02967",
        )
        for language, corpus, data in (("en", "librilight", "Libri-Light"), ("es", "voxpopuli", "VoxPopuli Spanish"))
    ),
)  # fmt: skip


POSITIONS = {"rel_pos": "relative", "rope": "rotary"}  # in fairseq's words


def _fairseq_fields(get: Callable[[str, Any], Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """What fairseq's configuration says of its Conformer; its blocks know one dropout."""
    kind, attention = get("pos_enc_type", "abs"), get("attn_type", "")
    if not isinstance(kind, str) or kind not in POSITIONS or attention != "espnet":
        raise ConfigError(
            f"the Conformer has pos_enc_type {shown(kind)} and attn_type {shown(attention)}; "
            "supported are rel_pos and rope with attention of type espnet"
        )
    return {
        "positions": POSITIONS[kind],
        "depthwise_kernel": get("depthwise_conv_kernel_size", 31),
        **dict.fromkeys(("attention_dropout", "activation_dropout", "conv_dropout"), get("dropout", 0.1)),
    }


def _fairseq_says(config: ConformerConfig) -> dict[str, Any]:
    """The inverse."""
    return {
        "_name": "wav2vec2",
        "layer_type": "conformer",
        "attn_type": "espnet",
        "pos_enc_type": next(theirs for theirs, ours in POSITIONS.items() if ours == config.positions),
        "depthwise_conv_kernel_size": config.depthwise_kernel,
    }


def _huggingface_fields(get: Callable[[str, Any], Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """What config.json says of a Conformer; its encoder always ends with its norm."""
    return {
        "positions": get("position_embeddings_type", "relative"),
        "depthwise_kernel": get("conv_depthwise_kernel_size", 31),
        "conv_dropout": get("conformer_conv_dropout", 0.1),
    }


def _huggingface_says(config: ConformerConfig) -> dict[str, Any]:
    """The inverse of `_huggingface_fields`."""
    return {
        "position_embeddings_type": config.positions,
        "conv_depthwise_kernel_size": config.depthwise_kernel,
        "conformer_conv_dropout": config.conv_dropout,
    }


COPY = "every block has the same frequencies"

FAMILY = Family(
    name="wav2vec2_conformer",
    config=ConformerConfig,
    model=Conformer,
    presets=PRESETS,
    names={"fairseq": ("wav2vec2", "wav2vec_ctc"), "huggingface": ("wav2vec2-conformer", "Wav2Vec2Conformer")},
    fixed={"fairseq": {"padding_rule": "length"}, "huggingface": {"norm_first": True, "adapter_width": 0}},
    required={
        "fairseq": {"layer_type": ("conformer",)},
        "huggingface": {"hidden_act": ("swish", "silu"), "rotary_embedding_base": (10000,)},
    },
    fields={"fairseq": _fairseq_fields, "huggingface": _huggingface_fields},
    says={"fairseq": _fairseq_says, "huggingface": _huggingface_says},
    rows={
        "fairseq": (
            ("encoder.layers.{n}.ffn{half}.layer_norm.{wb}", "encoder.layers.{n}.ffn{half}_layer_norm.{wb}"),
            ("encoder.layers.{n}.ffn{half}.w_1.{wb}", "encoder.layers.{n}.ffn{half}.intermediate_dense.{wb}"),
            ("encoder.layers.{n}.ffn{half}.w_2.{wb}", "encoder.layers.{n}.ffn{half}.output_dense.{wb}"),
            ("encoder.layers.{n}.self_attn_layer_norm.{wb}", "encoder.layers.{n}.self_attn_layer_norm.{wb}"),
            ("encoder.layers.{n}.self_attn.linear_{rest}", "encoder.layers.{n}.self_attn.linear_{rest}"),
            ("encoder.layers.{n}.self_attn.pos_bias_{uv}", "encoder.layers.{n}.self_attn.pos_bias_{uv}"),
            ("encoder.layers.0.self_attn.rotary_emb.inv_freq", "encoder.embed_positions.inv_freq"),
            ("encoder.layers.{n}.conv_module.{rest}", "encoder.layers.{n}.conv_module.{rest}"),
        ),
        "huggingface": (("encoder.embed_positions.inv_freq", "encoder.embed_positions.inv_freq"),),
    },
    drops={"fairseq": (("encoder.layers.{later}.self_attn.rotary_emb.inv_freq", COPY),)},
    generated={"encoder.embed_positions.inv_freq": lambda config: frequencies(config.width // config.num_heads)},
)
