"""Convolutional parts: the waveform feature extractor and the positional convolutions.

Shapes: B batch, S samples, C channels, T frames, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.layers._init import normal_
from zoo.layers.lengths import Valid, masked_normalise

NORM_EPS = 1e-5


class PerUtteranceGroupNorm(nn.GroupNorm):
    """Group norm with one group a channel, whose statistics can be taken over each utterance's own frames.

    With `valid=None` the statistics run over the whole time axis, padding included, as every reference does.
    Otherwise they run over each utterance's valid frames, and the padded ones become zero.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, eps=NORM_EPS)

    def forward(self, x: Tensor, valid: Valid | None = None) -> Tensor:
        """Normalise x (B, C, T) over time, per utterance."""
        if valid is None:
            return super().forward(x)
        if valid.counts is None:
            mask = valid.padding_mask(x.shape[2])[:, None, :]
            y = masked_normalise(x.float(), mask, valid.lengths[:, None, None], self.eps).to(x.dtype)
            return (y * self.weight[:, None] + self.bias[:, None]).masked_fill(mask, 0.0)
        # One call an utterance: the arithmetic is that of the utterance alone, to the last bit.
        alone = [
            F.group_norm(y[None, :, :n], self.num_groups, self.weight, self.bias, self.eps)
            for y, n in zip(x, valid.counts)
        ]
        return torch.cat([F.pad(y, (0, x.shape[2] - y.shape[2])) for y in alone])


class ChannelLayerNorm(nn.LayerNorm):
    """Layer norm over the channels of (B, C, T): frame by frame, so padding cannot reach it."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=NORM_EPS)

    def forward(self, x: Tensor, valid: Valid | None = None) -> Tensor:
        """Normalise x (B, C, T) over channels."""
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class NoNorm(nn.Module):
    """Stands where a convolution block has no norm."""

    def forward(self, x: Tensor, valid: Valid | None = None) -> Tensor:
        """Return x unchanged."""
        return x


class ConvBlock(nn.Module):
    """Convolution without padding, norm, GELU."""

    def __init__(self, channels_in: int, channels: int, kernel: int, stride: int, bias: bool, norm: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels_in, channels, kernel, stride, bias=bias)
        self.layer_norm = norm

    def forward(self, x: Tensor, valid: Valid | None) -> Tensor:
        """(B, C, T) -> (B, C', T')."""
        return F.gelu(self.layer_norm(self.conv(x), valid))


class FeatureExtractor(nn.Module):
    """Strided convolutions from the waveform to frames (wav2vec 2.0, https://arxiv.org/abs/2006.11477, section 2).

    Args:
        layers: (channels, kernel, stride) of each block.
        norm: "group": group norm on block 0 only; "layer": layer norm on every block.
        bias: whether the convolutions have a bias.
    """

    def __init__(self, layers: Sequence[tuple[int, int, int]], norm: str, bias: bool) -> None:
        super().__init__()
        self.kernels_and_strides = tuple((kernel, stride) for _, kernel, stride in layers)
        blocks = []
        channels_in = 1
        for i, (channels, kernel, stride) in enumerate(layers):
            block_norm: nn.Module = NoNorm()
            if norm == "layer":
                block_norm = ChannelLayerNorm(channels)
            elif i == 0:
                block_norm = PerUtteranceGroupNorm(channels)
            blocks.append(ConvBlock(channels_in, channels, kernel, stride, bias, block_norm))
            channels_in = channels
        self.conv_layers = nn.ModuleList(blocks)

    def forward(self, waveforms: Tensor, valid: Valid | None = None) -> Tensor:
        """Frames of a batch.

        Args:
            waveforms: (B, S).
            valid: true lengths, for statistics over each utterance's own frames; None: over all frames.

        Returns:
            (B, T, C).
        """
        x = waveforms[:, None, :]
        for block, kernel_and_stride in zip(self.conv_layers, self.kernels_and_strides):
            valid = valid and valid.after((kernel_and_stride,))
            x = block(x, valid)
        return x.transpose(1, 2)


def same_conv1d(x: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> Tensor:
    """Grouped convolution (B, D, T) -> (B, D, T), padded with zeros; an even kernel looks one frame further back."""
    kernel = weight.shape[2]
    x = F.pad(x, (kernel // 2, (kernel - 1) // 2))
    if x.dtype == torch.bfloat16 and x.device.type == "cpu" and weight.shape[1] < 16:
        # On CPUs with bfloat16 matrix units torch 2.13 gets long kernels over 2 to 12 channels a group wrong by 100 %.
        # No released model has so few.
        return F.conv1d(x.float(), weight.float(), None if bias is None else bias.float(), groups=groups).to(x.dtype)
    return F.conv1d(x, weight.to(x.dtype), bias, groups=groups)


class SameConv1d(nn.Conv1d):
    """Convolution that keeps the number of frames."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, T) -> (B, D, T)."""
        return same_conv1d(x, self.weight, self.bias, self.groups)


class WeightNormConv1d(nn.Module):
    """Grouped 1-D convolution that keeps the number of frames, with one weight-norm magnitude per kernel tap.

    weight = weight_v * weight_g / ||weight_v||, the norm taken over output and input channels.
    The parametrised names of torch.nn.utils.parametrizations differ; a checkpoint reader maps them.
    """

    def __init__(self, width: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.bias = nn.Parameter(torch.zeros(width))
        self.weight_g = nn.Parameter(torch.empty(1, 1, kernel))
        self.weight_v = nn.Parameter(torch.empty(width, width // groups, kernel))
        normal_(self.weight_v, std=(4.0 / (kernel * width)) ** 0.5)
        with torch.no_grad():
            self.weight_g.copy_(self.weight_v.square().sum(dim=(0, 1), keepdim=True).sqrt())

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, T) -> (B, D, T)."""
        v = self.weight_v.float() if self.weight_v.dtype in (torch.float16, torch.bfloat16) else self.weight_v
        weight = v * (self.weight_g.to(v.dtype) / torch.linalg.vector_norm(v, dim=(0, 1), keepdim=True))
        return same_conv1d(x, weight, self.bias, self.groups)


class PositionalConv(nn.Module):
    """Positional embedding by one weight-normalised convolution and a GELU."""

    def __init__(self, width: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.conv = WeightNormConv1d(width, kernel, groups)

    def forward(self, x: Tensor, padded: Tensor | None) -> Tensor:
        """x (B, T, D), zero where padded -> (B, T, D) to be added to it."""
        return F.gelu(self.conv(x.transpose(1, 2))).transpose(1, 2).contiguous()


class BatchNormPositionalConv(nn.Module):
    """Positional embedding by batch norm, one plain convolution and a GELU (HuBERT models trained in bfloat16).

    Source: fairseq `wav2vec2.py`, `make_conv_pos` with `is_batch_norm` (3d262bb2, MIT).
    """

    def __init__(self, width: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.batch_norm = nn.BatchNorm1d(width)
        self.conv = SameConv1d(width, width, kernel, groups=groups)

    def forward(self, x: Tensor, padded: Tensor | None) -> Tensor:
        """x (B, T, D) -> (B, T, D); `padded` (B, T) frames are zeroed again after the norm, which shifts zeros."""
        y = self.batch_norm(x.transpose(1, 2))
        if padded is not None:
            y = y.masked_fill(padded[:, None, :], 0.0)
        return F.gelu(self.conv(y)).transpose(1, 2).contiguous()


class StackedPositionalConv(nn.Module):
    """Positional embedding by a stack of convolutions, each followed by an affine-free layer norm and a GELU.

    data2vec (https://arxiv.org/abs/2202.03555). Source: fairseq `wav2vec2.py`, `make_conv_pos` of more than one layer
    (3d262bb2, MIT).
    """

    def __init__(self, width: int, kernel: int, groups: int, depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(PositionalConvBlock(width, kernel, groups) for _ in range(depth))

    def forward(self, x: Tensor, padded: Tensor | None) -> Tensor:
        """x (B, T, D), zero where padded -> (B, T, D); `padded` (B, T) frames are zeroed again after every block."""
        y = x.transpose(1, 2)
        for layer in self.layers:
            y = layer(y)
            if padded is not None:
                y = y.masked_fill(padded[:, None, :], 0.0)
        return y.transpose(1, 2).contiguous()


class PositionalConvBlock(nn.Module):
    """One block of the stack."""

    def __init__(self, width: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.conv = SameConv1d(width, width, kernel, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, T) -> (B, D, T)."""
        y = self.conv(x).transpose(1, 2)
        return F.gelu(F.layer_norm(y, (y.shape[2],), eps=NORM_EPS)).transpose(1, 2)
