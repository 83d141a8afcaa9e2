"""TERA, Mockingjay and Audio ALBERT: a BERT encoder over spectral frames, positions computed, nothing convolved.

Papers: TERA https://arxiv.org/abs/2007.06028, Mockingjay https://arxiv.org/abs/1910.12638, Audio ALBERT
https://arxiv.org/abs/2005.08575. Upstream: s3prl `upstream/mockingjay` (ec8064b5, Apache-2.0), read for facts.

Shapes: B batch, S samples, T frames, F features, D width, L layers, C chunks of all utterances together, P frames of a
chunk.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.errors import ConfigError
from zoo.layers.lengths import frame_mask
from zoo.layers.spectral import constant
from zoo.layers.transformer import Stack
from zoo.models._family import Checkpointing, EncoderOutput, Family, preset
from zoo.models._spectral import SpectralConfig, SpectralModel

SILENT = -10000.0  # added to the scores of frames that s3prl takes for padding
TABLE_FRAMES = 1500  # the table of positions grows by as many at a time
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "relu": F.relu, "swish": F.silu}
LIMITS = {
    "num_layers": (1, 128),
    "width": (1, 65536),
    "ffn_width": (1, 262144),
    "num_heads": (1, 1024),
    "norm_eps": (0, 1),
    "chunk_frames": (0, 1 << 24),
    "dropout": (0, 1),
    "attention_dropout": (0, 1),
}


@dataclass(frozen=True, kw_only=True)
class TeraConfig(SpectralConfig):
    """A spectral front end and a transformer; the defaults are TERA base.

    Attributes:
        num_layers, width, ffn_width, num_heads: depth L, width D, feed-forward width, heads.
        activation: of the feed-forward layers.
        norm_eps: of every layer norm.
        norm_first: pre-norm blocks, each hidden state with a norm of its own, or post-norm blocks.
        share_layers: one block repeated L times, as in Audio ALBERT.
        chunk_frames: what is longer is cut into equal pieces of at most as many frames, each encoded alone; 0: never.
        dropout, attention_dropout: in training mode only.
    """

    level_db: float | None = -25.0
    num_layers: int = 3
    width: int = 768
    ffn_width: int = 3072
    num_heads: int = 12
    activation: Literal["gelu", "relu", "swish"] = "gelu"
    norm_eps: float = 1e-12
    norm_first: bool = False
    share_layers: bool = False
    chunk_frames: int = 1500
    dropout: float = 0.1
    attention_dropout: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_limits(LIMITS)
        if self.width % self.num_heads:
            raise ConfigError(f"width {self.width} cannot be divided by num_heads {self.num_heads}")


class InputRepresentations(nn.Module):
    """Features to what enters the first block: projection, positions, norm."""

    def __init__(self, config: TeraConfig) -> None:
        super().__init__()
        self.spec_transform = nn.Linear(config.feature_width, config.width)
        self.LayerNorm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, chunks: Chunks) -> Tensor:
        """(C, P, F) -> (C, P, D)."""
        x = self.spec_transform(x)
        out: Tensor = self.dropout(self.LayerNorm(x + chunks.positions(x.shape[2], x)))
        return out


def sinusoids(frames: int, width: int) -> Tensor:
    """(frames, width) sines at even places, cosines at odd ones."""
    place = torch.arange(frames, dtype=torch.float64, device="cpu")[:, None]
    column = torch.arange(width, device="cpu")
    angle = place / 10000.0 ** (2 * (column // 2) / width).double()
    return torch.where(column % 2 == 0, angle.sin(), angle.cos()).float()


class SelfProjections(nn.Module):
    """Query, key and value of every frame, and attention over them."""

    def __init__(self, config: TeraConfig) -> None:
        super().__init__()
        self.heads, self.dropout = config.num_heads, config.attention_dropout
        self.query = nn.Linear(config.width, config.width)
        self.key = nn.Linear(config.width, config.width)
        self.value = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """Attend with `bias` added to the scores (C, H, P, P): (C, P, D) -> (C, P, D)."""
        q, k, v = (
            part(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=self.dropout if self.training else 0.0)
        return torch.cat(y.unbind(1), 2)


class Output(nn.Module):
    """The last linear map of a sub-layer, and the norm that belongs to it."""

    def __init__(self, inner: int, config: TeraConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(inner, config.width)
        self.LayerNorm = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(C, P, I) -> (C, P, D), without the norm."""
        out: Tensor = self.dropout(self.dense(x))
        return out


class Attention(nn.Module):
    """Self-attention under the names of s3prl's state dict."""

    def __init__(self, config: TeraConfig) -> None:
        super().__init__()
        self.self = SelfProjections(config)
        self.output = Output(config.width, config)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """(C, P, D) -> (C, P, D), without residual and norm."""
        out: Tensor = self.output(self.self(x, bias))
        return out


class Intermediate(nn.Module):
    """The first half of the feed-forward layer."""

    def __init__(self, config: TeraConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.width, config.ffn_width)
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, x: Tensor) -> Tensor:
        """(C, P, D) -> (C, P, I)."""
        return self.activation(self.dense(x))


class PostNormLayer(nn.Module):
    """A block whose norms follow its residual sums."""

    def __init__(self, config: TeraConfig) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.intermediate = Intermediate(config)
        self.output = Output(config.ffn_width, config)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """(C, P, D) -> (C, P, D)."""
        x = self.attention.output.LayerNorm(x + self.attention(x, bias))
        out: Tensor = self.output.LayerNorm(x + self.output(self.intermediate(x)))
        return out


class PreNormLayer(PostNormLayer):
    """The same parts with the norms before the sub-layers."""

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """(C, P, D) -> (C, P, D)."""
        x = x + self.attention(self.attention.output.LayerNorm(x), bias)
        out: Tensor = x + self.output(self.intermediate(self.output.LayerNorm(x)))
        return out


class Encoder(Stack):
    """A stack of blocks, or one block repeated."""

    def __init__(self, config: TeraConfig) -> None:
        super().__init__()
        layer_type = PreNormLayer if config.norm_first else PostNormLayer
        self.layer = nn.ModuleList(layer_type(config) for _ in range(1 if config.share_layers else config.num_layers))
        if config.norm_first:  # one for each hidden state; the blocks go on with what is not normalised
            self.LayerNorm = nn.ModuleList(
                nn.LayerNorm(config.width, eps=config.norm_eps) for _ in range(config.num_layers + 1)
            )

    def forward(self, x: Tensor, bias: Tensor, wanted: frozenset[int]) -> dict[int, Tensor]:
        """Hidden states of the wanted layers: index -> (C, P, D); no block above the highest one is run."""
        states = {}
        for i in range(max(wanted) + 1):
            if i:
                x = self.run_layer(self.layer[min(i, len(self.layer)) - 1], x, bias)
            if i in wanted:
                states[i] = self.LayerNorm[i](x) if hasattr(self, "LayerNorm") else x
        return states


class Tera(Checkpointing, SpectralModel):
    """Waveforms to hidden states."""

    def __init__(self, config: TeraConfig) -> None:
        super().__init__(config)
        self.config: TeraConfig = config
        self.input_representations = InputRepresentations(config)
        self.encoder = Encoder(config)

    @property
    def num_layers(self) -> int:
        """L: there are L + 1 hidden states."""
        return self.config.num_layers

    def forward(
        self,
        waveforms: Tensor | Sequence[Tensor],
        lengths: Tensor | Sequence[int] | None = None,
        *,
        layers: Sequence[int] | None = None,
    ) -> EncoderOutput:
        """Hidden states of a batch of utterances.

        Args:
            waveforms: (B, S) floating point at `sample_rate`, or a list of 1-D tensors. Any floating dtype and device
                is brought to the model's.
            lengths: (B,) samples of each utterance; None: all of S. Nothing beyond them is ever looked at.
            layers: which hidden states to return, 0 to L, negatives from the end; None: all. Nothing above the
                highest one is computed.

        Returns:
            EncoderOutput.

        Raises:
            InputError: for waveforms, lengths or layers that the model cannot take.
        """
        wanted = self.layer_indices(layers)
        exact = self.padding == "exact"
        weight = self.input_representations.spec_transform.weight
        features, frames = self.features(waveforms, lengths, weight)
        total = features.shape[1]
        # s3prl cuts a batch by its longest utterance; what is exact is cut as if each stood alone.
        kind = TracedChunks if torch.compiler.is_compiling() else Chunks
        chunks = kind(frames if exact else torch.full_like(frames, total), total, self.config.chunk_frames)
        x = chunks.cut(features)
        bias = chunks.bias(x).to(weight.dtype)
        states = self.encoder(self.input_representations(x.to(weight.dtype), chunks), bias, frozenset(wanted))
        joined = {i: chunks.join(state) for i, state in states.items()}
        if exact:
            padded = frame_mask(frames, total)[:, :, None]
            joined = {i: state.masked_fill(padded, 0.0) for i, state in joined.items()}
        return EncoderOutput(tuple(joined[i] for i in wanted), frames)


class Chunks:
    """How a batch of utterances is cut into equal pieces of bounded length, and put together again.

    Args:
        frames: (B,) frames of each utterance.
        total: T, of the batch.
        limit: most frames of a piece; 0: no limit.
    """

    def __init__(self, frames: Tensor, total: int, limit: int) -> None:
        limit = limit or total
        count = (frames + limit - 1) // limit
        self.frames, self.total = frames[:, None], total
        self.length = ((frames + count - 1) // count)[:, None]  # (B, 1) of an utterance's pieces; the last is shorter
        self.size = int(self.length.max())
        place = torch.arange((total + limit - 1) // limit * self.size, device=frames.device)
        inside = place % self.size
        frame = place // self.size * self.length + inside  # (B, pieces * P): where each frame of the pieces comes from
        self.source = frame.clamp(max=total - 1)
        # Some pieces of the shorter utterances have no frames.
        self.padded = ((inside >= self.length) | (frame >= self.frames)).reshape(-1, self.size)

    def cut(self, x: Tensor) -> Tensor:
        """(B, T, F) -> (C, P, F), zero beyond a piece's frames."""
        x = x.gather(1, self.source[:, :, None].expand(-1, -1, x.shape[2]))
        return x.reshape(-1, self.size, x.shape[2]).masked_fill(self.padded[:, :, None], 0.0)

    def join(self, x: Tensor) -> Tensor:
        """(C, P, D) -> (B, T, D)."""
        x = x.reshape(len(self.frames), -1, x.shape[2])
        frame = torch.arange(self.total, device=x.device)
        place = (frame // self.length * self.size + frame % self.length).clamp(max=x.shape[1] - 1)
        return x.gather(1, place[:, :, None].expand(-1, -1, x.shape[2]))

    def positions(self, width: int, like: Tensor) -> Tensor:
        """(P, D): every piece begins anew."""
        rows = math.ceil(self.size / TABLE_FRAMES) * TABLE_FRAMES
        return constant(sinusoids, rows, width, like=like)[: self.size]

    def bias(self, features: Tensor) -> Tensor:
        """What is added to the scores of each frame: (C, 1, 1, P).

        s3prl counts the frames of a piece whose features do not sum to zero, wherever they are, and takes those beyond
        as many for padding. Such frames get a constant that another one can share; frames that do not exist get none
        at all.
        """
        sounding = (features.sum(2) != 0).sum(1)
        bias = torch.where(frame_mask(sounding, self.size), SILENT, 0.0)
        # A piece without frames looks at what it likes: nobody reads it.
        return bias.masked_fill(self.padded & ~self.padded[:, :1], -math.inf)[:, None, None, :]


class TracedChunks(Chunks):
    """The same for a graph, which does not know how many pieces there are: none is cut, frames see those of their own.

    Numbers are those of pieces; memory grows with the square of T. C is B, and P is T.
    """

    def __init__(self, frames: Tensor, total: int, limit: int) -> None:
        limit = limit or total
        count = (frames + limit - 1) // limit
        self.length = ((frames + count - 1) // count)[:, None]
        self.frame = torch.arange(total, device=frames.device)
        self.padded = self.frame >= frames[:, None]

    def cut(self, x: Tensor) -> Tensor:
        """Nothing."""
        return x

    def join(self, x: Tensor) -> Tensor:
        """Nothing."""
        return x

    def positions(self, width: int, like: Tensor) -> Tensor:
        """(B, T, D)."""
        return sinusoids(self.frame.shape[0], width).to(like)[self.frame % self.length]

    def bias(self, features: Tensor) -> Tensor:
        """(B, 1, T, T)."""
        piece = self.frame // self.length
        together = piece[:, :, None] == piece[:, None, :]
        sounding = (together & (features.sum(2) != 0)[:, None, :]).sum(2)
        silent = self.frame % self.length >= sounding
        # Padded frames look at each other, so that no row is without any.
        allowed = together & (self.padded[:, :, None] | ~self.padded[:, None, :])
        return torch.where(silent, SILENT, 0.0)[:, None, :].masked_fill(~allowed, -math.inf)[:, None]


TERA = TeraConfig(family="tera")
LARGE = replace(TERA, num_layers=12, chunk_frames=500)
ALBERT = replace(TERA, share_layers=True)
BASE_COUNT, FBANK_COUNT, LARGE_COUNT, ALBERT_COUNT = 21_327_360, 21_450_240, 85_118_208, 7_151_616


DROP3 = replace(TERA, dropout=0.3, attention_dropout=0.3)
DROP3_LONG = replace(DROP3, chunk_frames=3000)
DROP3_FBANK = replace(DROP3, features="fbank", level_db=None, delta_order=2)
PARAMETERS = {
    TERA: BASE_COUNT, DROP3: BASE_COUNT, DROP3_LONG: BASE_COUNT, DROP3_FBANK: FBANK_COUNT, LARGE: LARGE_COUNT,
    ALBERT: ALBERT_COUNT,
}  # fmt: skip
_preset = partial(preset, parameters=PARAMETERS, licence="Apache-2.0")
_tera = partial(_preset, paper="https://arxiv.org/abs/2007.06028")
_mockingjay = partial(_preset, paper="https://arxiv.org/abs/1910.12638")
_albert = partial(_preset, paper="https://arxiv.org/abs/2005.08575")
LS100, LS360, LS960 = (f"LibriSpeech {hours} h" for hours in (100, 360, 960))

PRESETS = (
    _tera("tera_logMelBase_T_F_AdamW_b32_200k_100hr", DROP3, LS100, "DBX:o36qt1zgtn3tsep/states-200000.ckpt?dl=1"),
    _tera(
        "tera_logMelBase_T_F_M_AdamW_b32_200k_100hr", DROP3, LS100, "DBX:l9ryl82k64m1lsk/states-200000.ckpt?dl=1",
        aliases=("tera_100hr",),
    ),
    _tera("tera_logMelBase_T_F_AdamW_b32_1m_960hr", DROP3, LS960, "DBX:98olxex0m7oy9ta/states-1000000.ckpt?dl=1"),
    _tera("tera_logMelBase_T_F_AdamW_b32_1m_960hr_drop1", TERA, LS960, "DBX:2ekbt2gxlkbvfz0/states-1000000.ckpt?dl=1"),
    _tera(
        "tera_logMelBase_T_F_AdamW_b32_1m_960hr_seq3k", DROP3_LONG, LS960,
        "DBX:tfysinbalpm3gsj/states-1000000.ckpt?dl=1",
    ),
    _tera(
        "tera_logMelBase_T_F_M_AdamW_b32_1m_960hr_drop1", TERA, LS960,
        "S3H:tera/resolve/main/tera_logMelBase_T_F_M_AdamW_b32_1m_960hr_drop1/states-1000000.ckpt",
        aliases=("tera", "tera_960hr"),
    ),
    _tera(
        "tera_fbankBase_T_F_AdamW_b32_200k_100hr", DROP3_FBANK, LS100, "DBX:i32ob29m6afufot/states-200000.ckpt?dl=1"
    ),
    _mockingjay(
        "mockingjay_logMelBase_T_AdamW_b32_200k_100hr", DROP3, LS100, "DBX:luorglf8mdg67l2/states-200000.ckpt?dl=1",
        aliases=("mockingjay_100hr",), confirmed=False, notes="dropout is inferred from the siblings",
    ),
    _mockingjay(
        "mockingjay_logMelLinearLarge_T_AdamW_b32_500k_360hr_drop1", LARGE, LS360,
        "S3H:mockingjay/resolve/main/mockingjay_logMelLinearLarge_T_AdamW_b32_500k_360hr_drop1/states-500000.ckpt",
        aliases=("mockingjay", "mockingjay_origin"),
    ),
    _mockingjay(
        "mockingjay_logMelBase_T_AdamW_b32_1m_960hr", DROP3, LS960, "DBX:jzx0xggk663jev6/states-1000000.ckpt?dl=1"
    ),
    _mockingjay(
        "mockingjay_logMelBase_T_AdamW_b32_1m_960hr_drop1", TERA, LS960,
        "DBX:7f9z6dzc7oix6qv/states-1000000.ckpt?dl=1", aliases=("mockingjay_960hr",),
    ),
    _mockingjay(
        "mockingjay_logMelBase_T_AdamW_b32_1m_960hr_seq3k", DROP3_LONG, LS960,
        "DBX:qnnvdrai2tfmjmh/states-1000000.ckpt?dl=1", confirmed=False, notes="dropout is inferred from the siblings",
    ),
    _albert(
        "audio_albert_logMelBase_T_share_AdamW_b32_1m_960hr_drop1", ALBERT, LS960,
        "S3H:audio_albert/resolve/main/audio_albert_logMelBase_T_share_AdamW_b32_1m_960hr_drop1/states-1000000.ckpt",
        aliases=("audio_albert", "audio_albert_960hr"),
    ),
)  # fmt: skip

FAMILY = Family(name="tera", config=TeraConfig, model=Tera, presets=PRESETS)
