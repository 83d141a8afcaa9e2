"""Reading audio, and features of many utterances: sorted by length inside, in the caller's order outside."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from zoo.errors import AudioError, InputError, ZooError

if TYPE_CHECKING:
    Item = str | os.PathLike[str] | Tensor | np.ndarray[Any, Any]
    # Index of an item, and its states (T, D) on the model's device -> what to keep of them
    Keep = Callable[[int, tuple[Tensor, ...]], tuple[Tensor, ...]]

MIN_SAMPLE_RATE, MAX_SAMPLE_RATE = 1_000, 768_000  # a damaged header must not blow a recording up
BATCH_SECONDS = 64.0
WINDOW_BATCHES = 4  # utterances are sorted by length within this many batches' worth of audio
WINDOW_ITEMS = 256


class Upstream(Protocol):
    """What `extract` needs of a model; those of the zoo have it, and so may any other.

    Called with a list of 1-D waveforms on the CPU and `layers`, a tuple of indices, it returns an object with
    `hidden_states`, one (B, T, D) tensor for each of the layers, and `lengths`, (B,) valid frames.
    """

    @property
    def takes(self) -> str:
        """What it is called with: "waveforms"; a model with another word is refused."""

    @property
    def sample_rate(self) -> int:
        """Samples per second that it expects."""

    @property
    def min_samples(self) -> int:
        """Fewest samples that give a frame."""

    def layer_indices(self, layers: Sequence[int] | None) -> tuple[int, ...]:
        """Indices of the hidden states asked for, negatives resolved; all of them for None."""

    def modules(self) -> Iterator[Any]:
        """It and its parts, each with its `training`, as those of a torch module."""

    def eval(self) -> Any:
        """Leave training mode."""

    def __call__(self, waveforms: list[Tensor], /, *, layers: Any) -> Any:
        """Run it."""


@dataclass(frozen=True)
class Extraction:
    """Features of one utterance.

    Attributes:
        index: position among the items given.
        source: path of the file; None for a waveform.
        hidden_states: one (T, D) tensor on the CPU for each of `layers`; empty when there is an error.
        layers: index of each hidden state.
        seconds: length of the audio; 0 when it could not be read.
        error: why there are no features, in one sentence; None when there are.
    """

    index: int
    source: str | None
    hidden_states: tuple[Tensor, ...]
    layers: tuple[int, ...]
    seconds: float
    error: str | None


def extract(
    model: Upstream,
    items: Iterable[Item],
    *,
    layers: Sequence[int] | None = None,
    sample_rate: int | None = None,
    batch_seconds: float = BATCH_SECONDS,
    progress: bool = True,
) -> Iterator[Extraction]:
    """Features of files or waveforms, in the order given, batched by length inside, in bounded memory.

    An utterance that cannot be used (unreadable, stereo, not finite, too short) gives an `Extraction` with `error`;
    the others go on.

    Args:
        model: any model of the zoo, or an object with its `takes`, `sample_rate`, `min_samples`, `layer_indices`,
            `modules` and `eval`, that is called as one; it is run in eval mode without gradients.
        items: audio files of any format that libsndfile reads, resampled to the model's rate; or 1-D floating-point
            waveforms.
        layers: which hidden states; None: all. Negatives count from the end, the order is kept.
        sample_rate: Hz of the waveforms among the items; None: the model's. Others are resampled.
        batch_seconds: audio in a batch, padding included; a longer utterance is a batch of its own.
        progress: show a progress bar on stderr when it is a terminal.

    Yields:
        One `Extraction` per item.

    Raises:
        InputError: for a single item, for a model that takes no audio, and for layers, a sample rate or a batch size
            that cannot be.
    """
    if isinstance(items, (str, bytes, os.PathLike)) or getattr(items, "ndim", 2) < 2:
        raise InputError(f"zoo.extract takes a list of items; found one {type(items).__name__}: put it in a list")
    indices, rate = checked(model, layers, sample_rate, batch_seconds)
    total = len(items) if isinstance(items, Sequence) else None
    return extract_checked(model, items, indices, rate, batch_seconds, progress, total)


def checked(
    model: Upstream, layers: Sequence[int] | None, sample_rate: int | None, batch_seconds: float
) -> tuple[tuple[int, ...], int]:
    """Indices of the layers and the sample rate that are meant; refused as `extract` says."""
    if model.takes != "waveforms":
        family = getattr(getattr(model, "config", None), "family", type(model).__name__)
        raise InputError(
            f"zoo.extract gives the model audio; a {family} model takes features of another model: call "
            "model(features, lengths)"
        )
    if not batch_seconds > 0:
        raise InputError(f"batch_seconds={batch_seconds!r} was asked for; give a positive number of seconds")
    rate = model.sample_rate if sample_rate is None else sample_rate
    check_rate(rate, "sample_rate")
    return tuple(model.layer_indices(layers)), int(rate)


def extract_checked(
    model: Upstream,
    items: Iterable[Item],
    layers: tuple[int, ...],
    rate: int,
    batch_seconds: float,
    progress: bool,
    total: int | None,
    keep: Keep | None = None,
) -> Generator[Extraction, None, None]:
    """As `extract`, of what is checked already; with `keep`, only what it makes of each utterance's states.

    `total` is the number of items, None where it is not known.
    """
    from tqdm import tqdm

    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with tqdm(total=total, unit="utt", desc="extract", disable=None if progress else True) as bar:
            loaded = (_load(model, i, item, rate) for i, item in enumerate(items))
            while window := _window(loaded, batch_seconds * WINDOW_BATCHES):
                done: dict[int, Extraction] = {u.index: u for u in window if isinstance(u, Extraction)}
                for batch in _batches([u for u in window if isinstance(u, _Utterance)], model, batch_seconds):
                    for extraction in _run(model, batch, layers, keep):
                        done[extraction.index] = extraction
                        bar.update()
                bar.update(len(window) - sum(isinstance(u, _Utterance) for u in window))
                yield from (done.pop(index) for index in sorted(done))
    finally:
        for module in training:  # one by one: a caller may have frozen some of them
            module.training = True


@dataclass(frozen=True)
class _Utterance:
    index: int
    source: str | None
    waveform: Tensor
    seconds: float


def _load(model: Upstream, index: int, item: Item, rate: int) -> _Utterance | Extraction:
    """The utterance at the model's rate, or the reason why it cannot be used."""
    path, seconds = source(item), 0.0
    try:
        waveform, own_rate = (_array(item), rate) if path is None else read_audio(Path(path))
        seconds = len(waveform) / own_rate
        waveform = resample(waveform, own_rate, model.sample_rate)
        if not torch.isfinite(waveform).all():
            raise AudioError("it holds NaN or infinite samples; repair or leave out the recording")
        if len(waveform) < model.min_samples:
            raise AudioError(
                f"it has {len(waveform)} samples at {model.sample_rate} Hz; this model needs at least "
                f"min_samples = {model.min_samples}"
            )
    except ZooError as error:
        what = path if path is not None else f"waveform {index}"
        return Extraction(index, path, (), (), seconds, f"{what} cannot be used: {error}")
    return _Utterance(index, path, waveform, seconds)


def source(item: object) -> str | None:
    """Path of an item that is a file; None for a waveform."""
    return str(item) if isinstance(item, (str, os.PathLike)) else None


def duration(item: Item, rate: int) -> float:
    """Seconds of a file, as its header says, or of a waveform of `rate` Hz; 0 when nothing is known of it."""
    import soundfile

    path = source(item)
    try:
        if path is None:
            return len(item) / rate  # type: ignore[arg-type]
        return float(soundfile.info(path).duration)
    except (OSError, RuntimeError, TypeError):  # it will be refused; RuntimeError: libsndfile's own
        return 0.0


def _window(loaded: Iterator[_Utterance | Extraction], seconds: float) -> list[_Utterance | Extraction]:
    """The next items, up to a bounded number and a bounded amount of audio."""
    window: list[_Utterance | Extraction] = []
    for item in islice(loaded, WINDOW_ITEMS):
        window.append(item)
        seconds -= item.seconds
        if seconds <= 0:
            break
    return window


def _batches(utterances: list[_Utterance], model: Upstream, batch_seconds: float) -> Iterator[list[_Utterance]]:
    """Utterances of like length together, longest first; the padded size of a batch stays below `batch_seconds`."""
    room = batch_seconds * model.sample_rate
    batch: list[_Utterance] = []
    for utterance in sorted(utterances, key=lambda u: len(u.waveform), reverse=True):
        if batch and (len(batch) + 1) * len(batch[0].waveform) > room:
            yield batch
            batch = []
        batch.append(utterance)
    if batch:
        yield batch


@torch.no_grad()
def _run(model: Upstream, batch: list[_Utterance], layers: tuple[int, ...], keep: Keep | None) -> list[Extraction]:
    out = model([u.waveform for u in batch], layers=layers)
    found = []
    for i, (u, frames) in enumerate(zip(batch, out.lengths.tolist())):
        states = tuple(state[i, :frames] for state in out.hidden_states)
        if keep is not None:
            states = keep(u.index, states)
        kept = tuple(state.to("cpu", copy=True) for state in states)
        found.append(Extraction(u.index, u.source, kept, layers, u.seconds, None))
    return found


def load_audio(
    path: str | os.PathLike[str], sample_rate: int = 16_000, *, start_s: float = 0.0, end_s: float | None = None
) -> Tensor:
    """Mono audio of a file, resampled where it has another rate (soxr, HQ).

    Args:
        path: any format that libsndfile reads.
        sample_rate: Hz.
        start_s: where the part to read begins, in seconds.
        end_s: where it ends; None: with the file.

    Returns:
        (S,) fp32 in [-1, 1].

    Raises:
        AudioError: when the file is missing, empty, stereo, of no format that libsndfile reads, or ends before
            `start_s`.
        InputError: for a sample rate that cannot be.
    """
    check_rate(sample_rate, "sample_rate")
    try:
        return resample(*read_audio(Path(path), start_s, end_s), sample_rate)
    except AudioError as error:
        raise AudioError(f"{path} cannot be used: {error}") from None


def read_audio(path: Path, start_s: float = 0.0, end_s: float | None = None) -> tuple[Tensor, int]:
    """Mono audio of a file as fp32 in [-1, 1], and its sample rate in Hz.

    Raises:
        AudioError: when the file is missing, empty, stereo, of no format that libsndfile reads, or ends before
            `start_s`.
    """
    import soundfile

    if not path.is_file():
        raise AudioError("it is a folder; give the files in it" if path.is_dir() else "there is no such file")
    try:
        with path.open("rb") as file, soundfile.SoundFile(file) as sound:
            rate = sound.samplerate
            start = round(start_s * rate)
            if start:
                sound.seek(min(start, sound.frames))
            frames = -1 if end_s is None else max(0, round(end_s * rate) - start)
            samples = sound.read(frames, dtype="float32", always_2d=True)
    except OSError as error:
        raise AudioError(f"it cannot be read: {error.strerror}") from None
    except (soundfile.SoundFileError, TypeError) as error:  # TypeError: headerless samples, named .raw
        reason = getattr(error, "error_string", str(error)).rstrip(".")
        raise AudioError(
            f"libsndfile cannot read it as audio ({reason}); fetch it again or convert it to FLAC"
        ) from None
    if samples.shape[1] != 1:
        raise AudioError(f"it has {samples.shape[1]} channels; mix it down to one first")
    check_rate(rate, "its sample rate")
    if start and not len(samples):
        raise AudioError(f"it ends before {start_s:g} s, where the part to read begins")
    return torch.from_numpy(samples[:, 0]), rate


def resample(waveform: Tensor, rate: int, target: int) -> Tensor:
    """Waveform (S,) at another rate, by soxr's high-quality band-limited interpolation."""
    if rate == target:
        return waveform
    import soxr

    return torch.from_numpy(soxr.resample(waveform.numpy(), rate, target, quality="HQ"))


def _array(item: object) -> Tensor:
    """A waveform given as an array or tensor, as (S,) fp32 on the CPU, in memory of its own.

    It waits until its batch is full; a caller who streams through one buffer has filled that again by then.
    """
    try:
        if isinstance(item, np.ndarray):  # torch refuses another byte order and steps backwards
            item = np.array(item, item.dtype.newbyteorder("="))
        tensor = torch.as_tensor(item).detach()
    except (TypeError, ValueError, RuntimeError):
        what = f"{type(item).__name__} of {item.dtype}" if isinstance(item, np.ndarray) else type(item).__name__
        raise AudioError(f"it is no waveform but {what}; give a path, an array or a tensor") from None
    if tensor.dim() != 1:
        raise AudioError(f"it has shape {tuple(tensor.shape)}; give one channel, shape (samples,)")
    if not tensor.is_floating_point():
        raise AudioError(f"it holds {tensor.dtype}; give floating point in [-1, 1]: divide 16-bit integers by 32768")
    return tensor.to("cpu", torch.float32, copy=True)


def check_rate(rate: object, name: str) -> None:
    """Refuse what is no sample rate; `name` says where it stands."""
    if not isinstance(rate, Integral) or isinstance(rate, bool) or not MIN_SAMPLE_RATE <= int(rate) <= MAX_SAMPLE_RATE:
        raise InputError(
            f"{name} is {rate!r}; it must be a whole number of Hz from {MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE}"
        )
