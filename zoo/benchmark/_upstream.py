"""What gives features: a model of the zoo, or anything that answers like one.

Shapes: B batch, S samples, T frames, D width, K hidden states.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

import zoo
from zoo.benchmark import _hooks
from zoo.errors import InputError, cut

PROBE_S = (1, 3)  # seconds of noise that show the shape of what a hook returns
CONTEXT = 8  # so much of a chunk is context on either side


@dataclass(frozen=True)
class States:
    """Hidden states of a batch: K tensors (B, T, D), and the valid frames of each utterance (B,)."""

    hidden_states: tuple[Tensor, ...]
    lengths: Tensor


class Upstream(nn.Module):
    """An upstream of either kind, with the attributes that `zoo.extract` and `zoo.FeatureStore` use of a model.

    A hook's module returns what a model of the zoo returns, or `(x, x_len)`: features (B, T, D) and their valid frames.
    Its `sample_rate` (Hz), `hop_length` and `min_samples` are taken where it has them, else 16 kHz, what the number of
    frames shows, and 0.

    Args:
        model: called with padded waveforms (B, S) and their lengths (B,).
        name: for results.
        exact: an utterance in a batch gives what it gives alone; else each is run alone.
        own: a model of the zoo.
        chunk_s: longer audio is run in chunks of so many seconds, see `chunks`; None: whole, and what is no model of
            the zoo is always run whole.
    """

    takes = "waveforms"

    def __init__(
        self, model: Callable[..., Any], name: str, *, exact: bool, own: bool, chunk_s: float | None = None
    ) -> None:
        super().__init__()
        self.model, self.name, self.exact, self.own = model, name, exact, own
        self.sample_rate = int(getattr(model, "sample_rate", 16_000))
        self.min_samples = int(getattr(model, "min_samples", 0))
        self.chunk_samples = math.inf if chunk_s is None else int(chunk_s * self.sample_rate)
        self.config: Any = getattr(model, "config", SimpleNamespace(family=name))
        if own:
            one: Any = model
            self.num_layers: int = one.num_layers
            self.width: int = one.config.width
            self.hop_length: int = one.hop_length
        else:
            self._probe()

    def _probe(self) -> None:
        frames = []
        for seconds in PROBE_S:
            samples = seconds * self.sample_rate
            noise = torch.randn(1, samples, generator=torch.Generator().manual_seed(0)) * 0.1
            with evaluating(self), torch.no_grad():
                out = self._call(noise.to(self.device), torch.tensor([samples], device=self.device))
            frames.append(int(out.lengths[0]))
        widths = {state.shape[-1] for state in out.hidden_states}
        if len(widths) != 1 or frames[1] <= frames[0]:
            raise InputError(
                f"the upstream {self.name} gave states of widths {sorted(widths)} and {frames} frames for {PROBE_S} s; "
                "all states must share one width, and longer audio must give more frames"
            )
        self.num_layers, self.width = len(out.hidden_states) - 1, widths.pop()
        per_frame = (PROBE_S[1] - PROBE_S[0]) * self.sample_rate / (frames[1] - frames[0])
        self.hop_length = int(getattr(self.model, "hop_length", round(per_frame)))

    def digest(self) -> str:
        """SHA-256 of its weights."""
        found = hashlib.sha256()
        for name, value in self.state_dict().items():
            if isinstance(value, Tensor):
                found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
                found.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        return found.hexdigest()

    @property
    def device(self) -> torch.device:
        """Where its parameters are; the CPU when it has none."""
        return next((p.device for p in self.parameters()), getattr(self, "_place", torch.device("cpu")))

    @device.setter
    def device(self, device: torch.device) -> None:
        self._place = device

    def layer_indices(self, layers: Sequence[int] | None) -> tuple[int, ...]:
        """Indices of hidden states without negatives.

        Raises:
            InputError: for one that the model does not have, or none.
        """
        count = self.num_layers + 1
        wanted = range(count) if layers is None else layers
        if not wanted or any(not -count <= i < count for i in wanted):
            raise InputError(
                f"layers {list(wanted)} were asked for; {self.name} has the hidden states 0 to {count - 1}"
            )
        return tuple(i % count for i in wanted)

    def frame_count(self, samples: int) -> int:
        """Frames of an utterance; of a hook's upstream about as many."""
        if self.own:
            return int(self.model.frame_count(samples))  # type: ignore[attr-defined]
        return samples // self.hop_length + 1

    def times_ms(self, frames: int) -> Tensor:
        """Middles of the first frames of any utterance, (T,) fp64 in milliseconds; of a hook's in mid-hop."""
        first = self.hop_length / 2
        if self.own:
            first = float(self.model.frame_centres(2 * self.min_samples)[0])  # type: ignore[attr-defined]
        return (torch.arange(frames, dtype=torch.float64) * self.hop_length + first) * 1000.0 / self.sample_rate

    def forward(self, waveforms: Sequence[Tensor], layers: Sequence[int] | None = None) -> States:
        """Hidden states of 1-D waveforms."""
        indices = self.layer_indices(layers)
        if self.own and max(map(len, waveforms)) <= self.chunk_samples:
            out = self.model(list(waveforms), layers=list(indices))
            return States(tuple(out.hidden_states), out.lengths)
        if self.own:
            outs = [self._chunked(waveform, indices) for waveform in waveforms]
        else:
            batches = [[w] for w in waveforms] if self.exact else [list(waveforms)]
            outs = [self._call(*_padded(batch, self.device)) for batch in batches]
            outs = [States(tuple(out.hidden_states[i] for i in indices), out.lengths) for out in outs]
        frames = max(int(out.lengths.max()) for out in outs)
        states = zip(*([_cut(state, frames) for state in out.hidden_states] for out in outs))
        return States(tuple(map(torch.cat, states)), torch.cat([out.lengths for out in outs]))

    def _chunked(self, waveform: Tensor, layers: Sequence[int]) -> States:
        parts = zip(*chunks(self.model, waveform[None].to(self.device), self.chunk_samples, layers))
        states = tuple(torch.cat(part, 1) for part in parts)
        return States(states, torch.tensor([states[0].shape[1]], device=self.device))

    def _call(self, waveforms: Tensor, lengths: Tensor) -> States:
        out = self.model(waveforms, lengths)
        if hasattr(out, "hidden_states"):
            return States(tuple(out.hidden_states), out.lengths)
        try:
            x, x_len = out
            if x.dim() != 3 or x_len.shape != x.shape[:1]:
                raise ValueError
        except (TypeError, ValueError, AttributeError):
            raise InputError(
                f"the upstream {self.name} returned {type(out).__name__}; it must return hidden_states and lengths as "
                "a model of the zoo does, or features (B, T, D) and their lengths (B,)"
            ) from None
        return States((x,), x_len)


def load(
    upstream: str | Path | nn.Module | Callable[..., Any],
    options: dict[str, Any],
    *,
    padding: str,
    device: str | None,
    chunk_s: float | None = None,
) -> Upstream:
    """An upstream by name, path, import path of a hook, or as it is.

    Args:
        upstream: registry name, checkpoint, "module:callable", a callable that makes a model, or a module.
        options: keyword arguments of the hook, or of `zoo.load`.
        padding: "exact" or "reference".
        device: where to put it.
        chunk_s: see `Upstream`.
    """
    try:
        place = torch.empty(0, device=device or "cpu").device
    except (RuntimeError, AssertionError) as error:  # the latter of a PyTorch that was built without CUDA
        why = cut(str(error).partition("\n")[0])
        raise InputError(f"device {device!r} was asked for, which cannot be used: {why}") from None
    if isinstance(upstream, nn.Module):
        model: Any = upstream
        name = _hooks.name(type(upstream))
    elif isinstance(upstream, (str, Path)) and (":" not in str(upstream) or _is_path(str(upstream))):
        model, name = zoo.load(upstream, padding=padding, **options), str(upstream)
    else:
        hook = str(upstream) if isinstance(upstream, Path) else upstream
        model, name = _hooks.call(_hooks.resolve(hook, "upstream"), "upstream", **options), _hooks.name(hook)
        if not callable(model):
            raise InputError(f"the upstream hook {name} gave {type(model).__name__}; it must give what can be called")
        if options:
            name += f" {options}"
    if isinstance(model, nn.Module):
        model = model.to(place)
    own = all(hasattr(model, one) for one in ("layer_indices", "frame_count", "padding", "min_samples"))
    if own:
        if model.takes != "waveforms":
            raise InputError(f"{name} takes features of another model, not audio; give a speech model as upstream")
        model.padding = padding
    made = Upstream(model, name, exact=padding == "exact", own=own, chunk_s=chunk_s)
    made.device = place
    return made.eval()


def chunks(model: Any, audio: Tensor, chunk_samples: float, layers: Sequence[int]) -> Iterator[tuple[Tensor, ...]]:
    """Hidden states of audio of any length, of which no more than a chunk is run at a time.

    Chunks begin on the audio's grid of frames; an eighth of a chunk on either side is heard but not kept. What looks no
    further than that (local features, convolutions) is as without chunks; attention sees its chunk alone, and
    normalisation over time (of the waveform, a group norm's, that of spectral features) is each chunk's own.

    Args:
        model: of the zoo.
        audio: (B, S), all of one length.
        chunk_samples: length of a chunk.
        layers: indices of hidden states.

    Yields:
        Of each chunk its K states (B, T', D), which follow on those before.
    """
    total, size = audio.shape[1], int(min(chunk_samples, audio.shape[1]))
    frames, end, hop = model.frame_count(size), model.frame_count(total), model.hop_length
    context = frames // CONTEXT
    last = max(0, math.ceil((total - size) / hop))  # ends with the audio, and so is no shorter
    done = 0
    for start in (*range(0, last, frames - 2 * context), last):
        stop = end if start == last else start + frames - context
        states = model(audio[:, start * hop : start * hop + size], layers=list(layers)).hidden_states
        yield tuple(state[:, done - start : stop - start] for state in states)
        done = stop


def _is_path(text: str) -> bool:
    return Path(text).exists() or text.startswith("hf:")


def _padded(waveforms: Sequence[Tensor], device: torch.device) -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([len(w) for w in waveforms], device=device)
    return nn.utils.rnn.pad_sequence([w.to(device) for w in waveforms], batch_first=True), lengths


def _cut(state: Tensor, frames: int) -> Tensor:
    """States (B, T, D) with exactly so many frames."""
    missing = frames - state.shape[1]
    return nn.functional.pad(state, (0, 0, 0, missing)) if missing > 0 else state[:, :frames]


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """In eval mode, and afterwards each part as it was."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True
