"""Weights and waveforms of the golden cases, the same on every platform and in every version of NumPy.

Golden files hold what a reference computed, not what it was given. Its weights and its audio are made here, by the
makers in the reference's environment and by the tests in ours:

* A weight is a function of (name, shape, seed, scale). Raw 64-bit words of the Philox counter-based generator, whose
  key is a hash of seed and name, become uniform float32 values by exact arithmetic. No distribution of a random
  library is used, because those may change between versions. `name` is the reference's own parameter name.
* A waveform is an excerpt of a recording in `examples/audio`, uniform noise, or a sweep of integer arithmetic, with a
  gain and an offset.

Two scales for small models. "usual" looks like a trained model at rest: norms near 1, small biases, attention near
uniform. "lively" has large query and key projections, so that attention is sharp, and large biases and uneven norms:
swapped projections, a forgotten bias or a wrong head split cannot hide in it. A third, "full", is for models of
released size: between the two, so that rounding does not grow through 24 layers, and made four values to a word, which
is quick. The fourth, "deep", is that for 24 layers with post-norm, where each layer adds little to what it is given:
otherwise frames become alike from layer to layer, and attention even.

Needs NumPy only; reading recordings needs soundfile.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

AUDIO = Path(__file__).resolve().parents[2] / "examples" / "audio"
SCALES = ("usual", "lively", "full", "deep")


class _Rule(NamedTuple):
    """How tensors whose name matches are drawn: uniform in centre ± spread, one (centre, spread) for each scale."""

    pattern: str
    usual: tuple[float, float]
    lively: tuple[float, float]
    full: tuple[float, float]
    deep: tuple[float, float] | None = None  # None: as full


# The first rule that matches decides. A matrix or convolution has a gain instead of a spread: its values are uniform
# with standard deviation gain / sqrt(fan_in).
_MATRICES = (
    # No norm stands between the convolutions of a group-norm extractor: a gain of sqrt(2) makes up for the GELUs.
    _Rule(r"(^|\.)feature_extractor\.", (0.0, 1.5), (0.0, 1.5), (0.0, 1.5)),
    _Rule(r"(^|\.)(pos_conv|relative_positional_encoder)\.", (0.0, 1.5), (0.0, 2.0), (0.0, 1.5)),
    _Rule(r"(^|\.)pos_conv_embed\.", (0.0, 1.5), (0.0, 2.0), (0.0, 1.5)),
    _Rule(r"(\.[qk]_proj|\.linear_[qk]|\.qkv)\.", (0.0, 0.8), (0.0, 1.7), (0.0, 1.5), (0.0, 1.7)),
    _Rule(r"\.self\.(query|key)\.", (0.0, 0.8), (0.0, 0.8), (0.0, 1.5)),  # s3prl's; small cases were made without it
    # One row for each bucket of distances, one column for each head: as large as the scores it is added to.
    _Rule(r"\.(relative_attention_bias|rel_attn_embed)\.", (0.0, 1.2), (0.0, 2.4), (0.0, 1.5)),
    # Stacks of one adapter, whose first axis is that of the stack.
    _Rule(r"\.adapter_layer\.W_[ab]$", (0.0, 3.0), (0.0, 3.0), (0.0, 3.0)),
    _Rule(r"(\.out_proj|\.attn\.proj|\.fc2)\.", (0.0, 0.8), (0.0, 0.8), (0.0, 0.8), (0.0, 0.3)),
    _Rule(r"", (0.0, 0.8), (0.0, 0.8), (0.0, 0.8)),
)
_VECTORS = (
    _Rule(r"\.running_mean$", (0.0, 0.2), (0.0, 0.5), (0.0, 0.3)),
    _Rule(r"\.running_var$", (1.0, 0.3), (1.5, 1.2), (1.0, 0.5)),
    _Rule(r"\.(weight_g|original0)$", (0.6, 0.2), (1.2, 0.6), (1.5, 0.5)),
    _Rule(r"\.(grep_a|gru_rel_pos_const|alibi_scale)$", (1.0, 0.3), (1.0, 1.5), (1.0, 0.5)),
    _Rule(r"(^|\.)(weight|ln_W)$", (1.0, 0.1), (1.0, 0.5), (1.0, 0.3)),
    _Rule(r"(^|\.)(bias|ln_b|b_[ab])$", (0.0, 0.05), (0.0, 0.3), (0.0, 0.1)),
    _Rule(r"", (0.0, 1.0), (0.0, 1.0), (0.0, 1.0)),
)


def words(key: str, count: int) -> np.ndarray:
    """Draws `count` raw words of 64 bits that depend on `key` alone."""
    digest = hashlib.sha256(key.encode()).digest()
    return np.random.Philox(key=np.frombuffer(digest[:16], dtype="<u8").astype(np.uint64)).random_raw(count)


def uniform(key: str, count: int) -> np.ndarray:
    """Draws `count` float32 values in [-1, 1), each a multiple of 2**-23, that depend on `key` alone."""
    steps = (words(key, count) >> np.uint64(40)).astype(np.int32) - (1 << 23)
    return steps.astype(np.float32) * np.float32(2.0**-23)


def coarse(key: str, count: int) -> np.ndarray:
    """Draws `count` float32 values in [-1, 1), each a multiple of 2**-15: four to a word, the lowest 16 bits first."""
    steps = words(key, -(-count // 4)).astype("<u8", copy=False).view("<i2")[:count]
    return steps * np.float32(2.0**-15)


def tensor(name: str, shape: Sequence[int], seed: int, scale: str) -> np.ndarray:
    """Makes one tensor of a model.

    Args:
        name: The reference's name of the tensor; it decides the key of the generator and the range of the values.
        shape: Its shape.
        seed: Seed of the case.
        scale: "usual", "lively", "full" or "deep".

    Returns:
        A float32 array; for `num_batches_tracked`, the one counter among them, an int64 one.

    Raises:
        ValueError: `scale` is none of the four.
    """
    if scale not in SCALES:
        raise ValueError(f"scale is {scale!r}, choose one of {SCALES}")
    if name.endswith("num_batches_tracked"):
        return np.full(shape, 1000 + seed, dtype=np.int64)
    if name.endswith("inv_freq"):  # the same in every block, and not what a toolkit would make itself
        return np.float32(1.0) / np.arange(1, 2 * math.prod(shape), 2, dtype=np.float32)
    draw = coarse if scale in ("full", "deep") else uniform
    values = draw(f"{seed}/{name}", math.prod(shape)).reshape(tuple(shape))
    matrix = len(shape) > 1 and re.search(r"(^|\.)(weight(_v)?|original1|W_[ab])$", name) is not None
    rule = next(rule for rule in (_MATRICES if matrix else _VECTORS) if re.search(rule.pattern, name))
    centre, spread = getattr(rule, scale) or rule.full
    if matrix:
        spread *= math.sqrt(3.0 / math.prod(shape[1:]))
    values *= np.float32(spread)
    if centre:
        values += np.float32(centre)
    return values


def tensors(state: Mapping[str, Mapping[str, Any]], seed: int, scale: str) -> dict[str, np.ndarray]:
    """Makes every tensor of a model from the `state` of a golden file: name -> {"shape": [...], "dtype": ...}."""
    return {name: tensor(name, entry["shape"], seed, scale) for name, entry in state.items()}


def sweep(rate: int, samples: int) -> np.ndarray:
    """A rising tone of three harmonics with a little noise, made of integers alone.

    Args:
        rate: By how much the phase's step grows from sample to sample, in 2**-32 of a period; the first step is that
            of 110 Hz at 16 kHz.
        samples: Number of samples.

    Returns:
        A float32 array in (-1, 1), each value a multiple of 2**-23.
    """
    n = np.arange(samples, dtype=np.int64)
    phase = 29527900 * n + rate * (n * (n - 1) // 2)
    total = (words(f"sweep/{rate}", samples) >> np.uint64(37)).astype(np.int64) - (1 << 26)
    for harmonic in (1, 2, 3):
        triangle = np.abs((harmonic * phase) % (1 << 32) - (1 << 31)) - (1 << 30)
        total += triangle // harmonic
    return (total >> 8).astype(np.float32) * np.float32(2.0**-23)


def waveform(spec: Mapping[str, Any]) -> np.ndarray:
    """Makes an utterance from its description.

    Args:
        spec: `{"file", "start", "samples", "gain", "offset"}`: an excerpt of a 16-bit mono recording in
            `examples/audio`, its integers over 32768. Or `{"noise", "samples", "gain", "offset"}`: uniform noise in
            [-1, 1), the value of `noise` being the seed. Or `{"sweep", "samples", "gain", "offset"}`: see `sweep`.
            Then times gain, plus offset (1 and 0 unless given), in float32. Without `start` and `samples` it is the
            whole recording.

    Returns:
        A float32 array, one value a sample.

    Raises:
        ValueError: The recording is not mono, is shorter than asked, or `spec` has a key that is not listed here.
    """
    spec = dict(spec)
    gain, offset = np.float32(spec.pop("gain", 1.0)), np.float32(spec.pop("offset", 0.0))
    samples = spec.pop("samples", None)
    if "noise" in spec:
        signal = uniform(f"noise/{spec.pop('noise')}", samples)
    elif "sweep" in spec:
        signal = sweep(spec.pop("sweep"), samples)
    else:
        import soundfile

        name, start = spec.pop("file"), spec.pop("start", 0)
        count = -1 if samples is None else samples
        integers, _ = soundfile.read(AUDIO / name, dtype="int16", start=start, frames=count)
        if integers.ndim != 1 or (samples is not None and len(integers) != samples):
            raise ValueError(f"{name}: wanted {samples} mono samples from {start}, found shape {integers.shape}")
        signal = integers.astype(np.float32) * np.float32(2.0**-15)
    if spec:
        raise ValueError(f"unknown keys in a waveform's description: {sorted(spec)}")
    return signal * gain + offset
