"""Transformer blocks and encoders. Shapes: B batch, T frames, D width."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext

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


class Stack(nn.Module):
    """Blocks, one after the other.

    Attributes:
        checkpointing: in training mode, compute the blocks again in the backward pass instead of keeping their inner
            activations.
    """

    def __init__(self) -> None:
        super().__init__()
        self.checkpointing = False

    def run_layer(self, layer: nn.Module, x: Tensor, *shared: Tensor | None) -> Tensor:
        """A block, called with `x` and what it shares with the others."""
        y: Tensor
        if not (self.training and self.checkpointing):
            y = layer(x, *shared)
        elif torch.compiler.is_compiling():  # which takes no contexts, and counts what a graph changes once
            y = checkpoint(layer, x, *shared, use_reentrant=False)
        else:
            y = checkpoint(
                layer, x, *shared, use_reentrant=False, context_fn=lambda: (nullcontext(), _buffers_kept(layer))
            )
        return y


@contextmanager
def _buffers_kept(layer: nn.Module) -> Iterator[None]:
    """What is computed again is not learnt again: batch norms update copies of their statistics."""
    kept = [(m, name, buffer) for m in layer.modules() for name, buffer in m.named_buffers(recurse=False)]
    for module, name, buffer in kept:
        setattr(module, name, buffer.clone())
    try:
        yield
    finally:
        for module, name, buffer in kept:
            setattr(module, name, buffer)


class TransformerEncoder(Stack):
    """Positional convolution, then a stack of blocks; the two children differ in where the norms stand.

    Args:
        width: D.
        layers: number of blocks.
        dropout: after the input.
        layerdrop: probability that a block is skipped, in training mode.
        pos_conv: module called with (x, padded), whose result is added to x.
        layer: makes a block from its index.
    """

    def __init__(
        self,
        *,
        width: int,
        layers: int,
        dropout: float,
        layerdrop: float,
        pos_conv: nn.Module,
        layer: Callable[[int], nn.Module],
    ) -> None:
        super().__init__()
        self.layerdrop = layerdrop
        self.pos_conv_embed = pos_conv
        self.layer_norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(layer(i) for i in range(layers))

    def add_positions(self, x: Tensor, padded: Tensor | None) -> Tensor:
        """What tells frames apart by their place, added before the first block."""
        out: Tensor = x + self.pos_conv_embed(x, padded)
        return out

    def enter(self, x: Tensor) -> Tensor:
        """Applied to the input of the first block."""
        return x

    def leave(self, x: Tensor) -> Tensor:
        """Applied to the output of the last block."""
        return x

    def shared(self, x: Tensor, padded: Tensor | None, exact: bool) -> tuple[Tensor | None, ...]:
        """What every block is given beside its input: the keys that may be looked at, and the position bias."""
        allowed = None if padded is None else ~padded[:, None, None, :]
        first = self.layers[0].attention
        return allowed, first.position_bias(x.shape[1]) if isinstance(first, SelfAttention) else None

    def forward(self, x: Tensor, padded: Tensor | None, exact: bool, wanted: Collection[int]) -> dict[int, Tensor]:
        """Hidden states of the wanted layers; no block above the highest one is run.

        Args:
            x: (B, T, D), zero where padded.
            padded: (B, T) mask of padded frames, which no frame attends to; None: nothing is padded.
            exact: whether convolutions are told of the padding.
            wanted: indices from 0 (what enters the first block) to the number of blocks (the encoder's output).

        Returns:
            index -> (B, T, D).
        """
        x = self.dropout(self.enter(self.add_positions(x, padded if exact else None)))
        states = {0: x} if 0 in wanted else {}
        depth = max(wanted)
        shared = self.shared(x, padded, exact) if depth else ()
        run = self._train_layer if self.training else self.run_layer
        for i, layer in enumerate(self.layers[:depth], start=1):
            x = run(layer, x, *shared)
            if i in wanted:
                states[i] = x
        if depth == len(self.layers):
            states[depth] = self.leave(x)
        return states

    def _train_layer(self, layer: nn.Module, x: Tensor, *shared: Tensor | None) -> Tensor:
        """A block with layerdrop.

        In a traced graph, and where several processes share their gradients, a dropped block is computed all the
        same and its result put aside: the graph is one, and every parameter gets a gradient on every process.
        """
        drop = None
        if self.layerdrop > 0:
            if torch.compiler.is_compiling() or (dist.is_available() and dist.is_initialized()):
                drop = torch.rand((), device=x.device) < self.layerdrop
            elif torch.rand(()) < self.layerdrop:
                return x
        y = self.run_layer(layer, x, *shared)
        return y if drop is None else torch.where(drop, x, y)


class PostNormEncoder(TransformerEncoder):
    """The encoder's norm stands before the first block."""

    def enter(self, x: Tensor) -> Tensor:
        """Normalise what enters the first block."""
        out: Tensor = self.layer_norm(x)
        return out


class PreNormEncoder(TransformerEncoder):
    """The encoder's norm stands after the last block."""

    def leave(self, x: Tensor) -> Tensor:
        """Normalise what leaves the last block."""
        out: Tensor = self.layer_norm(x)
        return out
