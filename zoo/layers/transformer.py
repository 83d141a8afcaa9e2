"""Transformer blocks and encoders. Shapes: B batch, T frames, D width."""

from __future__ import annotations

from collections.abc import Callable, Collection

from torch import Tensor, nn
from torch.nn import functional as F

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


class TransformerLayer(nn.Module):
    """Parts of one block; the two children differ in where the norms stand."""

    def __init__(self, width: int, inner: int, dropout: float, activation_dropout: float, attention: nn.Module) -> None:
        super().__init__()
        self.attention = attention
        self.dropout = nn.Dropout(dropout)
        self.layer_norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.feed_forward = FeedForward(width, inner, dropout, activation_dropout)
        self.final_layer_norm = nn.LayerNorm(width, eps=NORM_EPS)


class PostNormLayer(TransformerLayer):
    """Norm after each residual sum (fairseq `layer_norm_first=False`)."""

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        x = self.layer_norm(x + self.dropout(self.attention(x, mask)))
        out: Tensor = self.final_layer_norm(x + self.feed_forward(x))
        return out


class PreNormLayer(TransformerLayer):
    """Norm before each sub-layer (fairseq `layer_norm_first=True`)."""

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        x = x + self.dropout(self.attention(self.layer_norm(x), mask))
        out: Tensor = x + self.feed_forward(self.final_layer_norm(x))
        return out


class TransformerEncoder(nn.Module):
    """Positional convolution, then a stack of blocks; the two children differ in where the norms stand.

    Args:
        width: D.
        inner: width of the feed-forward layer.
        layers: number of blocks.
        dropout: after the input, after attention and after the feed-forward layer.
        activation_dropout: inside the feed-forward layer.
        pos_conv: module called with (x, padded), whose result is added to x.
        attention: makes the attention module of a block.
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
        pos_conv: nn.Module,
        attention: Callable[[], nn.Module],
    ) -> None:
        super().__init__()
        self.pos_conv_embed = pos_conv
        self.layer_norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            self.layer_type(width, inner, dropout, activation_dropout, attention()) for _ in range(layers)
        )

    def enter(self, x: Tensor) -> Tensor:
        """Applied to the input of the first block."""
        return x

    def leave(self, x: Tensor) -> Tensor:
        """Applied to the output of the last block."""
        return x

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
        mask = None if padded is None else ~padded[:, None, None, :]
        states = {0: x} if 0 in wanted else {}
        depth = max(wanted)
        for i, layer in enumerate(self.layers[:depth], start=1):
            x = layer(x, mask)
            if i in wanted:
                states[i] = x
        if depth == len(self.layers):
            states[depth] = self.leave(x)
        return states


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
