"""Spectral features of speech: log-mel as torchaudio computes it, Kaldi's features, deltas, normalisation.

Everything takes a padded batch, is differentiable and runs on any device. Shapes: B batch, S samples, T frames,
F features. Source for the arithmetic: torchaudio 2.11 `compliance/kaldi.py`, `functional` (BSD), read for facts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.layers.lengths import frame_mask

KALDI_FLOOR = 2.0**-23  # of energies before the logarithm: the smallest step of float32 at 1
PRE_EMPHASIS = 0.97
CEPSTRAL_LIFTER = 22.0
KALDI_LOW_HZ = 20.0
BLOCK_FRAMES = 512  # frames that each thread transforms at a time: most of what they need stays in a core's cache
BAND_GROUP = 16  # mel bands summed at a time: a group looks at few bins


def constant(make: Callable[..., Tensor], *arguments: float, like: Tensor) -> Tensor:
    """A window or table made by `make(*arguments)`, with dtype and device of `like`; kept between eager calls."""
    if torch.compiler.is_compiling():
        return make(*arguments).to(like)
    return _kept(make, arguments, like.dtype, like.device)


@lru_cache(maxsize=64)
def _kept(
    make: Callable[..., Tensor], arguments: tuple[float, ...], dtype: torch.dtype, device: torch.device
) -> Tensor:
    with torch.inference_mode(False), torch.no_grad():
        return make(*arguments).to(device, dtype)


def hann_window(size: int) -> Tensor:
    """(size,) periodic Hann window, as short-time Fourier transforms use it."""
    return torch.hann_window(size, device="cpu")


def povey_window(size: int) -> Tensor:
    """(size,) Kaldi's window: a symmetric Hann window to the power 0.85."""
    return torch.hann_window(size, periodic=False, device="cpu").pow(0.85)


def kaldi_window(size: int, fft: int) -> Tensor:
    """(fft,) Povey window with zeros behind it."""
    return F.pad(povey_window(size), (0, fft - size))


def mel_filters(bins: int, bands: int, sample_rate: int) -> Tensor:
    """(bins, bands) triangles in Hz, whose corners are equally spaced on the HTK mel scale from 0 to half the rate.

    In fp32 throughout, as torchaudio's `melscale_fbanks` is.
    """
    frequency = torch.linspace(0, sample_rate // 2, bins, device="cpu")
    top = 2595.0 * math.log10(1.0 + (sample_rate // 2) / 700.0)
    corner = 700.0 * (10.0 ** (torch.linspace(0.0, top, bands + 2, device="cpu") / 2595.0) - 1.0)
    width = corner[1:] - corner[:-1]
    slope = corner[None, :] - frequency[:, None]
    triangles: Tensor = torch.minimum(-slope[:, :-2] / width[:-1], slope[:, 2:] / width[1:])
    return triangles.clamp(min=0.0)


def kaldi_mel_filters(fft: int, bands: int, sample_rate: int) -> Tensor:
    """(fft, bands) triangles on Kaldi's mel scale from 20 Hz to half the rate, for squares of the parts of spectra.

    Each row is there twice, for the real and the imaginary part; the last bin of spectra is left out. In fp32, as
    torchaudio's `get_mel_banks` is.
    """
    low, step = _kaldi_mel_steps(bands, sample_rate)
    left = low + torch.arange(bands, device="cpu") * step
    centre = low + (torch.arange(bands, device="cpu") + 1.0) * step
    right = low + (torch.arange(bands, device="cpu") + 2.0) * step
    mel = 1127.0 * (1.0 + sample_rate / fft * torch.arange(fft // 2, device="cpu") / 700.0).log()[:, None]
    triangles = torch.minimum((mel - left) / (centre - left), (right - mel) / (right - centre)).clamp(min=0.0)
    return triangles.repeat_interleave(2, 0)


def kaldi_mel_reach(fft: int, bands: int, sample_rate: int, first: int, last: int) -> tuple[int, int]:
    """The rows of `kaldi_mel_filters` outside of which the bands from `first` to before `last` are zero."""
    low, step = _kaldi_mel_steps(bands, sample_rate)
    bottom, top = (700.0 * (math.exp((low + n * step) / 1127.0) - 1.0) * fft / sample_rate for n in (first, last + 1))
    return 2 * math.floor(bottom), min(2 * math.ceil(top) + 2, fft)


def _kaldi_mel_steps(bands: int, sample_rate: int) -> tuple[float, float]:
    """The lowest corner of the triangles, and the way from one to the next, in mel."""
    low, high = (1127.0 * math.log(1.0 + hertz / 700.0) for hertz in (KALDI_LOW_HZ, sample_rate / 2))
    return low, (high - low) / (bands + 1)


def kaldi_cosines(bands: int, cepstra: int) -> Tensor:
    """(bands, cepstra) orthonormal DCT-II with the cepstral lifter folded in."""
    band = torch.arange(bands, device="cpu")[:, None] + 0.5
    order = torch.arange(cepstra, device="cpu", dtype=torch.float32)[None, :]
    cosines = torch.cos(math.pi / bands * band * order) * math.sqrt(2.0 / bands)
    cosines[:, 0] = math.sqrt(1.0 / bands)
    return cosines * (1.0 + 0.5 * CEPSTRAL_LIFTER * torch.sin(math.pi * order / CEPSTRAL_LIFTER))


def above_zero(x: Tensor, eps: float = 1e-10) -> Tensor:
    """x + eps, for what is not negative."""
    if torch.onnx.is_in_onnx_export():  # whose optimiser leaves out the addition of a constant below 1e-8
        return x + torch.full_like(x, eps)
    return x + eps


def normalise_level(waveforms: Tensor, lengths: Tensor, level_db: float) -> Tensor:
    """Scale each utterance to a root mean square of `level_db` over its true length.

    Args:
        waveforms: (B, S), zero in the padding.
        lengths: (B,) samples.
        level_db: decibels below full scale, such as -25.
    """
    power = waveforms.square().sum(1) / lengths
    silent = power == 0  # whose root has no gradient
    rms = power.masked_fill(silent, 1.0).sqrt().masked_fill(silent, 0.0)
    level: float = 10.0 ** (level_db / 20.0)
    return waveforms * (level / above_zero(rms))[:, None]


def power_spectrum(waveforms: Tensor, lengths: Tensor, size: int, hop: int, fft: int) -> Tensor:
    """Squared magnitudes of a centred short-time Fourier transform with a periodic Hann window.

    Each utterance is reflected at its own ends, as if it stood alone. The window is centred in `fft` samples.

    Args:
        waveforms: (B, S), finite in the padding.
        lengths: (B,) samples, each more than fft / 2.
        size: samples of the window.
        hop: samples from one frame to the next.
        fft: points of the transform.

    Returns:
        (B, 1 + S // hop, fft / 2 + 1). Frames from 1 + length // hop on belong to the padding.
    """
    total, half = waveforms.shape[1], fft // 2
    last = lengths[:, None] - 1
    place = torch.arange(-half, total + half, device=waveforms.device).abs()[None, :]
    place = torch.where(place > last, (2 * last - place).clamp(min=0), place)
    reflected = waveforms.gather(1, place)
    before = (fft - size) // 2
    window = F.pad(constant(hann_window, size, like=waveforms), (before, fft - size - before))
    return _in_blocks(lambda frames: _power(_squares(frames * window)), reflected, fft, hop, half + 1)


def log_mel(power: Tensor, bands: int, sample_rate: int, floor: float = 1e-10) -> Tensor:
    """ln(mel energies + floor): (B, T, bins) -> (B, T, bands)."""
    energies = power @ constant(mel_filters, power.shape[2], bands, sample_rate, like=power)
    return above_zero(energies, floor).log()


def kaldi_fbank(waveforms: Tensor, *, bands: int, size: int, hop: int, sample_rate: int) -> Tensor:
    """Kaldi's log-mel filter bank, without dither and without energy.

    Args:
        waveforms: (B, S), finite.
        bands: F.
        size: samples of a frame.
        hop: samples from one frame to the next.
        sample_rate: Hz.

    Returns:
        (B, 1 + (S - size) // hop, F). A frame looks at its own samples alone.
    """
    fft = 1 << (size - 1).bit_length()
    filters = constant(kaldi_mel_filters, fft, bands, sample_rate, like=waveforms)
    window = constant(kaldi_window, size, fft, like=waveforms)
    emphasis = waveforms.new_full((), PRE_EMPHASIS)
    groups = []
    for first in range(0, bands, BAND_GROUP):
        last = min(first + BAND_GROUP, bands)
        low, high = kaldi_mel_reach(fft, bands, sample_rate, first, last)
        groups.append((low, high, filters[low:high, first:last]))

    def features(frames: Tensor) -> Tensor:
        mean = frames[..., :size].mean(-1, keepdim=True)
        squares = _kaldi_squares(frames, mean, size, window, emphasis).view(-1, fft + 2)
        mel = torch.cat([torch.mm(squares[:, low:high], weights) for low, high, weights in groups], 1)
        return mel.clamp_(min=KALDI_FLOOR).log_().view(*frames.shape[:2], bands)

    return _in_blocks(features, waveforms, fft, hop, bands, fft - size)


def kaldi_mfcc(waveforms: Tensor, *, bands: int, cepstra: int, size: int, hop: int, sample_rate: int) -> Tensor:
    """Kaldi's cepstral coefficients, liftered, the zeroth among them: as `kaldi_fbank`, with F = cepstra."""
    logs = kaldi_fbank(waveforms, bands=bands, size=size, hop=hop, sample_rate=sample_rate)
    return logs @ constant(kaldi_cosines, bands, cepstra, like=logs)


def kaldi_spectrogram(waveforms: Tensor, *, size: int, hop: int) -> Tensor:
    """Kaldi's log power spectrum, whose first bin is the frame's log energy before pre-emphasis, 0 at least.

    As `kaldi_fbank`, with F = half the points of the transform + 1.
    """
    fft = 1 << (size - 1).bit_length()
    window = constant(kaldi_window, size, fft, like=waveforms)
    emphasis = waveforms.new_full((), PRE_EMPHASIS)

    def features(frames: Tensor) -> Tensor:
        own = frames[..., :size]
        mean = own.mean(-1, keepdim=True)
        logs = _power(_kaldi_squares(frames, mean, size, window, emphasis)).clamp_(min=KALDI_FLOOR).log_()
        logs[..., 0] = (own - mean).square_().sum(-1).clamp_(min=1.0).log_()
        return logs

    return _in_blocks(features, waveforms, fft, hop, fft // 2 + 1, fft - size)


def _kaldi_squares(frames: Tensor, mean: Tensor, size: int, window: Tensor, emphasis: Tensor) -> Tensor:
    """Mean removed, pre-emphasis, window and transform of frames; the squares of the real and imaginary parts.

    Rounds where torchaudio does. A product fused with the sum, or one pre-emphasis of the whole waveform, is as near
    the truth and faster, but differs from torchaudio by as much as torchaudio does from the truth: 1e-4 and more in
    bins with little energy.

    Args:
        frames: (B, T, fft), finite.
        mean: (B, T, 1) of their first `size` samples.
        size: samples of a frame; what is behind them counts nowhere.
        window: (fft,) `kaldi_window`.
        emphasis: () share of a sample that is taken from the next.

    Returns:
        (B, T, fft / 2 + 1, 2).
    """
    x = frames - mean
    # The first sample has none before it in its frame; the window makes it zero.
    x[..., 1:size].sub_((x[..., :size] * emphasis)[..., :-1])
    return _squares(x.mul_(window))


def _squares(frames: Tensor) -> Tensor:
    """(B, T, fft) -> (B, T, fft / 2 + 1, 2) squares of the real and imaginary parts of the transform.

    ONNX Runtime's own transform is a hundred times less exact where fft is no power of two, so it gets a matrix.
    """
    if torch.onnx.is_in_onnx_export():
        parts = frames @ constant(fourier, frames.shape[-1], like=frames)
        return torch.stack([parts[..., ::2], parts[..., 1::2]], -1).square()
    return torch.view_as_real(torch.fft.rfft(frames)).square_()


def fourier(size: int) -> Tensor:
    """(size, size + 2): a cosine and a sine of every frequency from 0 to half the rate."""
    place = torch.arange(size, device="cpu")[:, None] * torch.arange(size // 2 + 1, device="cpu") % size
    angle = place.double() * (2.0 * math.pi / size)
    return torch.stack([angle.cos(), angle.sin()], 2).flatten(1).float()


def _power(squares: Tensor) -> Tensor:
    """(B, T, bins, 2) -> (B, T, bins)."""
    return squares[..., 0] + squares[..., 1]


def _in_blocks(
    function: Callable[[Tensor], Tensor], waveforms: Tensor, size: int, hop: int, width: int, missing: int = 0
) -> Tensor:
    """A function of frames, applied to some of them at a time where that is faster and nothing is differentiated.

    Args:
        function: (B, T, size) -> (B, T, width), each frame for itself.
        waveforms: (B, S).
        size: samples of a frame.
        hop: samples from one frame to the next.
        width: F.
        missing: zeros to be added behind the waveforms.
    """
    if torch.compiler.is_compiling() or waveforms.device.type != "cpu":
        return function(F.pad(waveforms, (0, missing)).unfold(1, size, hop))
    whole = max(0, (waveforms.shape[1] - size) // hop + 1)  # frames that lack nothing
    step = max(1, BLOCK_FRAMES * torch.get_num_threads() // len(waveforms))
    blocks = list(torch.split(waveforms.unfold(1, size, hop), step, 1)) if whole else []
    rest = F.pad(waveforms[:, whole * hop :], (0, missing))
    if rest.shape[1] >= size:
        blocks.append(rest.unfold(1, size, hop))
    if waveforms.requires_grad and torch.is_grad_enabled():
        return torch.cat([function(block) for block in blocks], 1)
    counts = [block.shape[1] for block in blocks]
    out = waveforms.new_empty(len(waveforms), sum(counts), width)
    for block, place in zip(blocks, torch.split(out, counts, 1)):
        place.copy_(function(block))
    return out


def deltas(x: Tensor, lengths: Tensor, window: int) -> Tensor:
    """Slope of each feature over `window` frames, the frames at the ends repeated: (B, T, F) -> (B, T, F)."""
    total, reach = x.shape[1], window // 2
    place = torch.arange(-reach, total + reach, device=x.device)[None, :].clamp(min=0)
    place = torch.minimum(place, (lengths[:, None] - 1).clamp(min=0))
    padded = x.gather(1, place[:, :, None].expand(-1, -1, x.shape[2]))
    steps = [n * (padded[:, reach + n : reach + n + total] - padded[:, reach - n : reach - n + total])
             for n in range(1, reach + 1)]  # fmt: skip
    slope = torch.stack(steps).sum(0) / (reach * (reach + 1) * (2 * reach + 1) / 3)
    return slope.masked_fill(frame_mask(lengths, total)[:, :, None], 0.0)


def with_deltas(x: Tensor, lengths: Tensor, order: int, window: int) -> Tensor:
    """x (B, T, F) with `order` slopes beside it, each of the one before: (B, T, F * (order + 1))."""
    blocks = [x]
    for _ in range(order):
        blocks.append(deltas(blocks[-1], lengths, window))
    return torch.cat(blocks, 2)


def normalise_frames(x: Tensor, lengths: Tensor, eps: float = 1e-10) -> Tensor:
    """Zero mean and unit (unbiased) deviation of each feature over an utterance's own frames; zero in the padding.

    A feature that never varies becomes zero. s3prl's is then the rounding of its mean divided by eps, which is noise.

    Args:
        x: (B, T, F), finite in the padding.
        lengths: (B,) frames; one alone becomes zero.
        eps: added to the deviation.
    """
    padded = frame_mask(lengths, x.shape[1])[:, :, None]
    count = lengths[:, None, None]
    # Summed in double precision, the mean of equal values is that value, so what does not vary becomes zero.
    precise = x.dtype if x.device.type == "mps" else torch.float64  # which Apple's GPUs do not have
    mean = (x.masked_fill(padded, 0.0).sum(1, keepdim=True, dtype=precise) / count).to(x.dtype)
    centred = (x - mean).masked_fill(padded, 0.0)
    variance = centred.square().sum(1, keepdim=True) / (count - 1).clamp(min=1)
    flat = variance == 0  # whose root has no gradient
    deviation = variance.masked_fill(flat, 1.0).sqrt().masked_fill(flat, 0.0)
    return centred / above_zero(deviation, eps)
