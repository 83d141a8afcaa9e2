"""Transformer blocks and encoders. Shapes: B batch, T frames, D width."""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from zoo.layers.attention import SelfAttention
from zoo.layers.conv import NORM_EPS


class FeedForward(nn.Module):
    """Linear, GELU (erf form), linear."""

    def __init__(self, width: int, inner: int, dropout: float, activation_dropout: float) -> None:
        super().__init__()
        self.intermediate_dense = nn.Linear(width, inner)
        self.intermediate_dropout = nn.Dropout(activation_dropout)
        self.output_dense = nn.Linear(inner, width)
        self.output_dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        x = self.intermediate_dropout(F.gelu(self.intermediate_dense(x)))
        out: Tensor = self.output_dropout(self.output_dense(x))
        return out


class Adapter(nn.Module):
    """Layer norm, linear, ReLU, linear, added to what came in: what MMS has after each block for a language.

    MMS, https://arxiv.org/abs/2305.13516. Upstream: fairseq `AdapterFast` in `wav2vec2.py` (3d262bb2, MIT).
    """

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.linear_1 = nn.Linear(width, inner)
        self.linear_2 = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        out: Tensor = x + self.linear_2(F.relu(self.linear_1(self.norm(x))))
        return out


class TransformerLayer(nn.Module):
    """Parts of one block; the two children differ in where the norms stand."""

    def __init__(
        self,
        width: int,
        inner: int,
        dropout: float,
        activation_dropout: float,
        attention: SelfAttention,
        adapter: nn.Module,
    ) -> None:
        super().__init__()
        self.attention = attention
        self.dropout = nn.Dropout(dropout)
        self.layer_norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.feed_forward = FeedForward(width, inner, dropout, activation_dropout)
        self.final_layer_norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.adapter_layer = adapter


class PostNormLayer(TransformerLayer):
    """Norm after each residual sum (fairseq `layer_norm_first=False`)."""

    def forward(self, x: Tensor, allowed: Tensor | None, position_bias: Tensor | None) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        x = self.layer_norm(x + self.dropout(self.attention(x, allowed, position_bias)))
        out: Tensor = self.adapter_layer(self.final_layer_norm(x + self.feed_forward(x)))
        return out


class PreNormLayer(TransformerLayer):
    """Norm before each sub-layer (fairseq `layer_norm_first=True`)."""

    def forward(self, x: Tensor, allowed: Tensor | None, position_bias: Tensor | None) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        x = x + self.dropout(self.attention(self.layer_norm(x), allowed, position_bias))
        out: Tensor = self.adapter_layer(x + self.feed_forward(self.final_layer_norm(x)))
        return out


class TransformerEncoder(nn.Module):
    """Positional convolution, then a stack of blocks; the two children differ in where the norms stand.

    Args:
        width: D.
        inner: width of the feed-forward layer.
        layers: number of blocks.
        dropout: after the input, after attention and after the feed-forward layer.
        activation_dropout: inside the feed-forward layer.
        layerdrop: probability that a block is skipped, in training mode.
        pos_conv: module called with (x, padded), whose result is added to x.
        attention: makes the attention module of a block from its index.
        adapter: makes what stands after a block; the identity where there is nothing.

    Attributes:
        checkpointing: in training mode, compute the blocks again in the backward pass instead of keeping their inner
            activations.
    """

    layer_type: type[TransformerLayer]

    def __init__(
        self,
        *,
        width: int,
        inner: int,
        layers: int,
        dropout: float,
        activation_dropout: float,
        layerdrop: float,
        pos_conv: nn.Module,
        attention: Callable[[int], SelfAttention],
        adapter: Callable[[], nn.Module],
    ) -> None:
        super().__init__()
        self.layerdrop = layerdrop
        self.checkpointing = False
        self.pos_conv_embed = pos_conv
        self.layer_norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            self.layer_type(width, inner, dropout, activation_dropout, attention(i), adapter()) for i in range(layers)
        )

    def enter(self, x: Tensor) -> Tensor:
        """Applied to the input of the first block."""
        return x

    def leave(self, x: Tensor) -> Tensor:
        """Applied to the output of the last block."""
        return x

    def position_bias(self, frames: int) -> Tensor | None:
        """What the first block's attention makes of the distances of frames, for all blocks."""
        first = self.layers[0].attention
        return first.position_bias(frames) if isinstance(first, SelfAttention) else None

    def forward(
        self, x: Tensor, padded: Tensor | None, mask_positions: bool, wanted: Collection[int]
    ) -> dict[int, Tensor]:
        """Hidden states of the wanted layers; no block above the highest one is run.

        Args:
            x: (B, T, D), zero where padded.
            padded: (B, T) mask of padded frames, which no frame attends to; None: nothing is padded.
            mask_positions: whether the positional convolution is told of the padding.
            wanted: indices from 0 (what enters the first block) to the number of blocks (the encoder's output).

        Returns:
            index -> (B, T, D).
        """
        x = x + self.pos_conv_embed(x, padded if mask_positions else None)
        x = self.dropout(self.enter(x))
        states = {0: x} if 0 in wanted else {}
        depth = max(wanted)
        allowed = None if padded is None else ~padded[:, None, None, :]
        position_bias = self.position_bias(x.shape[1]) if depth else None
        run = self._train_layer if self.training else _run_layer
        for i, layer in enumerate(self.layers[:depth], start=1):
            x = run(layer, x, allowed, position_bias)
            if i in wanted:
                states[i] = x
        if depth == len(self.layers):
            states[depth] = self.leave(x)
        return states

    def _train_layer(self, layer: nn.Module, x: Tensor, allowed: Tensor | None, position_bias: Tensor | None) -> Tensor:
        """A block with layerdrop and gradient checkpointing.

        In a traced graph, and where several processes share their gradients, a dropped block is computed all the
        same and its result put aside: the graph is one, and every parameter gets a gradient on every process.
        """
        drop = None
        if self.layerdrop > 0:
            if torch.compiler.is_compiling() or (dist.is_available() and dist.is_initialized()):
                drop = torch.rand((), device=x.device) < self.layerdrop
            elif torch.rand(()) < self.layerdrop:
                return x
        if self.checkpointing:
            y: Tensor = checkpoint(layer, x, allowed, position_bias, use_reentrant=False)
        else:
            y = layer(x, allowed, position_bias)
        return y if drop is None else torch.where(drop, x, y)


def _run_layer(layer: nn.Module, x: Tensor, allowed: Tensor | None, position_bias: Tensor | None) -> Tensor:
    y: Tensor = layer(x, allowed, position_bias)
    return y


class PostNormEncoder(TransformerEncoder):
    """The encoder's norm stands before the first block."""

    layer_type = PostNormLayer

    def enter(self, x: Tensor) -> Tensor:
        """Normalise what enters the first block."""
        out: Tensor = self.layer_norm(x)
        return out


class PreNormEncoder(TransformerEncoder):
    """The encoder's norm stands after the last block."""

    layer_type = PreNormLayer

    def leave(self, x: Tensor) -> Tensor:
        """Normalise what leaves the last block."""
        out: Tensor = self.layer_norm(x)
        return out
