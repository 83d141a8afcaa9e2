"""Masks of spans for training: of frames (wav2vec 2.0, section 3.1) and of channels (SpecAugment)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Masking:
    """Spans hidden from the encoder in training mode, drawn with torch's generator.

    Attributes:
        time_probability, time_span: share of frames replaced by the learned mask embedding, and frames in a span.
        channel_probability, channel_span: share of channels set to zero, and channels in a span.
    """

    time_probability: float = 0.0
    time_span: int = 10
    channel_probability: float = 0.0
    channel_span: int = 64


def span_mask(lengths: Tensor, size: int, probability: float, span: int) -> Tensor:
    """Random spans, drawn with torch's generator and without a host synchronisation.

    As many spans start in each row as would cover `probability` of its length if none overlapped, rounded up or down
    at random; their starts are distinct and every span lies within the row's length.

    Args:
        lengths: (B,) valid positions.
        size: width of the mask.
        probability: share of positions to cover, before overlaps.
        span: positions in a span.

    Returns:
        (B, size), True where masked.
    """
    device = lengths.device
    starts_possible = (lengths - span + 1).clamp(min=0)[:, None]
    spans = (probability * lengths / span + torch.rand(len(lengths), device=device)).long()[:, None]
    position = torch.arange(size, device=device)[None, :]
    scores = torch.rand(len(lengths), size, device=device).masked_fill(position >= starts_possible, 2.0)
    ranks = scores.argsort(dim=1).argsort(dim=1)
    started = ((ranks < spans) & (position < starts_possible)).long().cumsum(1)
    before = torch.nn.functional.pad(started, (span, 0))[:, :size]
    return started > before
