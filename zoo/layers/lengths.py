"""Lengths, padding masks and waveform normalisation.

Shapes: B batch, S samples, T frames. A padding mask is (B, T), True where padded.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def frame_count(samples: int, kernels_and_strides: Iterable[tuple[int, int]]) -> int:
    """Frames that a stack of unpadded convolutions makes of `samples` samples; 0 when there are too few."""
    for kernel, stride in kernels_and_strides:
        samples = max((samples - kernel) // stride + 1, 0)
    return samples


def min_samples(kernels_and_strides: Sequence[tuple[int, int]]) -> int:
    """Fewest samples that give one frame: the receptive field of the stack."""
    samples = 1
    for kernel, stride in reversed(kernels_and_strides):
        samples = (samples - 1) * stride + kernel
    return samples


def padding_mask(lengths: Tensor, size: int) -> Tensor:
    """(B, size) mask, True from each item's length on."""
    return torch.arange(size, device=lengths.device)[None, :] >= lengths[:, None]


def reshaped_padding_mask(lengths: Tensor, samples: int, frames: int) -> Tensor:
    """Frame mask made by reshaping the sample mask, as fairseq's HuBERT and Microsoft's WavLM make it.

    The padded batch of `samples` samples is cut into `frames` equal stretches (a remainder at the end is dropped);
    a frame is padded when its whole stretch is. It marks up to two frames more as valid than the length formula.
    Source: fairseq `hubert.py`, `forward_padding_mask` (3d262bb2, MIT).
    """
    stretch = samples // frames
    starts = torch.arange(frames, device=lengths.device) * stretch
    return starts[None, :] >= lengths[:, None]


def normalise_waveforms(waveforms: Tensor, samples: Sequence[int], eps: float) -> Tensor:
    """Zero mean and unit (biased) variance per utterance over its true length.

    Args:
        waveforms: (B, S), zero in the padding.
        samples: true length of each utterance.
        eps: added to the variance.

    Returns:
        (B, S), zero in the padding.
    """
    size = waveforms.shape[1]
    if all(n == size for n in samples):
        return F.layer_norm(waveforms, (size,), eps=eps)
    # One call an utterance: the arithmetic is that of the utterance alone, to the last bit.
    alone = [F.layer_norm(waveform[:n], (n,), eps=eps) for waveform, n in zip(waveforms, samples)]
    return torch.stack([F.pad(x, (0, size - len(x))) for x in alone])
