"""What callers pass to a model, checked and brought together. Shapes: B batch, S samples."""

from __future__ import annotations

import operator
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from zoo.errors import InputError
from zoo.layers.lengths import Valid


def batch_waveforms(
    waveforms: Tensor | Sequence[Tensor],
    lengths: Tensor | Sequence[int] | None,
    *,
    min_samples: int,
    trim: bool,
    device: torch.device,
) -> tuple[Tensor, Valid | None]:
    """Checked (B, S) waveforms on a device, and their true lengths where anything is padded.

    Args:
        waveforms: (B, S) floating point, or a list of 1-D tensors.
        lengths: (B,) samples; None: all of S.
        min_samples: fewest that an utterance may have.
        trim: whether padding beyond the longest utterance is cut off.
        device: where they go.

    Raises:
        InputError: for anything else.
    """
    if not isinstance(waveforms, Tensor):
        if lengths is not None:
            raise InputError("lengths were given beside a list of waveforms; a list carries its own lengths")
        items = list(waveforms)
        bad = [i for i, w in enumerate(items) if not isinstance(w, Tensor) or w.dim() != 1]
        if not items or bad:
            found = "an empty list" if not items else f"something else at index {bad[0]}"
            raise InputError(f"a list of waveforms must hold 1-D tensors, one per utterance; found {found}")
        lengths = [len(w) for w in items]
        waveforms = nn.utils.rnn.pad_sequence(items, batch_first=True)
    if waveforms.dim() != 2 or waveforms.shape[0] == 0:
        raise InputError(f"waveforms must have shape (batch, samples); found {tuple(waveforms.shape)}")
    if not waveforms.is_floating_point():
        raise InputError(
            f"waveforms must be floating point in [-1, 1]; found {waveforms.dtype}: divide 16-bit integers by 32768"
        )
    batch, size = waveforms.shape
    if torch.compiler.is_compiling() and isinstance(lengths, Tensor):
        return waveforms.to(device), Valid(lengths.to(device), None)
    counts = (size,) * batch if lengths is None else integers(lengths, "waveform")
    if len(counts) != batch:
        raise InputError(f"lengths must have one entry per waveform; found {len(counts)} for {batch} waveforms")
    for i, n in enumerate(counts):
        if n > size:
            raise InputError(f"lengths[{i}] is {n}, but the batch is only {size} samples long")
        if n < min_samples:
            raise InputError(f"waveform {i} has {n} samples; this model needs at least min_samples = {min_samples}")
    if trim:
        size = max(counts)
        waveforms = waveforms[:, :size]
    padded = any(n < size for n in counts)
    return waveforms.to(device), Valid(torch.tensor(counts, device=device), counts) if padded else None


def integers(lengths: Tensor | Sequence[int], item: str) -> tuple[int, ...]:
    """Lengths as plain integers, one for each `item`."""
    if isinstance(lengths, Tensor) and (lengths.dim() != 1 or lengths.is_floating_point() or lengths.is_complex()):
        raise InputError(f"lengths must be a 1-D tensor of integers; found {lengths.dtype}, {tuple(lengths.shape)}")
    try:
        return tuple(operator.index(n) for n in lengths)
    except (TypeError, ValueError):
        raise InputError(f"lengths must be integers, one per {item}; found {lengths!r}") from None
