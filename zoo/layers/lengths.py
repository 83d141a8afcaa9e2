"""Lengths, padding masks and waveform normalisation.

Shapes: B batch, S samples, T frames. A padding mask is (B, T), True where padded.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

LAYER_NORM_EPS = 1e-5


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


def frame_mask(lengths: Tensor, size: int) -> Tensor:
    """(B, size) mask, True from each item's length on."""
    return torch.arange(size, device=lengths.device)[None, :] >= lengths[:, None]


@dataclass(frozen=True)
class Valid:
    """True lengths of the items of a padded batch.

    Attributes:
        lengths: (B,) integers on the batch's device.
        counts: the same as Python integers; None in a traced graph, where they are not known.
    """

    lengths: Tensor
    counts: tuple[int, ...] | None

    def after(self, kernels_and_strides: Sequence[tuple[int, int]]) -> Valid:
        """Lengths after a stack of unpadded convolutions."""
        lengths = self.lengths
        for kernel, stride in kernels_and_strides:
            lengths = ((lengths - kernel) // stride + 1).clamp(min=0)
        counts = self.counts
        return Valid(lengths, counts and tuple(frame_count(n, kernels_and_strides) for n in counts))

    def padding_mask(self, size: int) -> Tensor:
        """(B, size) mask, True from each item's length on."""
        return frame_mask(self.lengths, size)

    def reshaped_padding_mask(self, samples: int, frames: int) -> Tensor:
        """Frame mask made by reshaping the sample mask, as fairseq's HuBERT and Microsoft's WavLM make it.

        The padded batch of `samples` samples is cut into `frames` equal stretches (a remainder at the end is
        dropped); a frame is padded when its whole stretch is. It marks up to two frames more as valid than the
        length formula. Source: fairseq `hubert.py`, `forward_padding_mask` (3d262bb2, MIT).
        """
        starts = torch.arange(frames, device=self.lengths.device) * (samples // frames)
        return starts[None, :] >= self.lengths[:, None]


def normalise_waveforms(waveforms: Tensor, valid: Valid | None, eps: float) -> Tensor:
    """Zero mean and unit (biased) variance per utterance over its true length.

    Args:
        waveforms: (B, S), zero in the padding.
        valid: true lengths; None when nothing is padded.
        eps: added to the variance.

    Returns:
        (B, S), zero in the padding.
    """
    size = waveforms.shape[1]
    if valid is None:
        return _standardise(waveforms, eps)
    if valid.counts is None:
        mask = valid.padding_mask(size)
        return masked_normalise(waveforms, mask, valid.lengths[:, None], eps)
    # One call an utterance: the arithmetic is that of the utterance alone, to the last bit.
    alone = [_standardise(waveform[:n], eps) for waveform, n in zip(waveforms, valid.counts)]
    return torch.stack([F.pad(x, (0, size - len(x))) for x in alone])


def _standardise(x: Tensor, eps: float) -> Tensor:
    """Normalise over the last axis in the order of operations of the reference that has this eps.

    fairseq's 1e-5 is layer norm's, which scales before it shifts; Hugging Face's 1e-7 comes with a subtraction first.
    On quiet, off-centre audio the two differ by ten times the rounding of either.
    """
    if eps == LAYER_NORM_EPS:
        return F.layer_norm(x, x.shape[-1:], eps=eps)
    precise = x.dtype if x.device.type == "mps" else torch.float64  # which Apple's GPUs do not have
    centred = x - x.mean(-1, keepdim=True, dtype=precise).to(x.dtype)
    return centred / torch.sqrt(centred.square().mean(-1, keepdim=True) + eps)


def masked_normalise(x: Tensor, mask: Tensor, count: Tensor, eps: float) -> Tensor:
    """Zero mean and unit variance over the last axis where `mask` is False, zero elsewhere; for traced graphs.

    Args:
        x: (..., T), finite also where masked.
        mask: broadcastable to x, True where padded.
        count: valid entries, broadcastable to x with last axis 1.
        eps: added to the variance.
    """
    mean = x.masked_fill(mask, 0.0).sum(-1, keepdim=True) / count
    centred = (x - mean).masked_fill(mask, 0.0)
    variance = centred.square().sum(-1, keepdim=True) / count
    return centred * torch.rsqrt(variance + eps)
