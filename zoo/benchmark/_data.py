"""Items of a corpus made ready: their waveforms, lengths and targets, and what had to be left out."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor

import zoo
from zoo.benchmark import _files, _hooks
from zoo.benchmark._task import Corpus, Item, Recipe
from zoo.benchmark._upstream import Upstream
from zoo.benchmark.objectives import Objective, classes
from zoo.errors import AudioError, InputError, ZooError, cut

SHOWN = 10  # examples of what was left out that a result lists


@dataclass(frozen=True)
class Split:
    """A split, as samplers see it (`samplers.Dataset`) and the training loop uses it.

    Attributes:
        name: of the split.
        items: id -> item.
        ids: of the items.
        samples: of each item, before random cropping.
        classes: of each item.
        label_lengths: of each target.
        excluded: id -> why it was left out.
        resampled: Hz -> how many files had that rate instead of the upstream's.
        seconds: audio in all.
    """

    name: str
    items: dict[str, Item]
    samples: list[int]
    classes: list[Hashable]
    label_lengths: list[int]
    excluded: dict[str, str] = field(default_factory=dict)
    resampled: dict[int, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def ids(self) -> list[str]:
        """Of the items, in the corpus's order."""
        return list(self.items)

    def drop(self, key: str, why: str) -> None:
        """Leave an item out that turned out to be of no use."""
        if key in self.items:
            place = self.ids.index(key)
            del self.items[key], self.samples[place], self.classes[place], self.label_lengths[place]
        self.excluded.setdefault(key, why)

    @property
    def left_out(self) -> dict[str, Any]:
        """What was excluded, for a result."""
        return {"count": len(self.excluded), "examples": list(self.excluded.values())[:SHOWN]}


class Audio:
    """Waveforms of items, as the upstream hears them.

    Args:
        recipe: its crops and effects.
        upstream: its sample rate and shortest input.
        seed: of random windows.
    """

    def __init__(self, recipe: Recipe, upstream: Upstream, seed: int) -> None:
        self.recipe, self.upstream, self.seed = recipe, upstream, seed
        self.rate = upstream.sample_rate
        self.foreign: set[str] = set()  # paths of files that have another rate
        self.kept: Kept | None = None

    def is_random(self, item: Item, split: str, samples: int) -> bool:
        """Whether another part of the item, which has so many samples, is taken each time."""
        crop_s = self.recipe.crop_s if split == "train" else None
        return any(limit is not None and samples > limit * self.rate for limit in (item.get("window_s"), crop_s))

    def place(self, item: Item, split: str) -> str:
        """Where a store keeps it: the same for items that sound the same."""
        effect = self.recipe.audio.get(split)
        heard = "" if effect is None else _hooks.name(effect)
        source = str(item["wav_path"]) if "wav_path" in item else f"{item.get('sample_rate')} {_sound(item)}"
        return f"{heard} {item.get('start_s')} {item.get('end_s')} {source}"

    def read(self, item: Item, split: str, draw: int | None = 0) -> Tensor:
        """The waveform (S,) of an item.

        Args:
            item: of the corpus.
            split: decides about effects and crops.
            draw: number of the draw, which decides about random parts; None: the whole.

        Raises:
            AudioError: when it cannot be used, in one sentence.
        """
        start, end = float(item.get("start_s", 0.0)), item.get("end_s")
        if "waveform" in item:
            waveform = self._given(item, start, end)
        elif self.kept is not None and _path(item) in self.foreign:
            waveform = self.kept.read(_path(item), self.rate, start, end)
        else:
            waveform = zoo.load_audio(_path(item), self.rate, start_s=start, end_s=end)
        if draw is not None:
            waveform = self._window(waveform, item.get("window_s"), draw)
        effect = self.recipe.audio.get(split)
        if effect is not None:
            waveform = effect(waveform)
        if draw is not None:
            waveform = self._window(waveform, self.recipe.crop_s if split == "train" else None, draw)
        if not torch.isfinite(waveform).all():
            raise AudioError(f"{_where(item)} holds NaN or infinite samples; repair it or leave it out")
        return waveform

    def samples(self, item: Item, split: str) -> tuple[int, int]:
        """Samples at the upstream's rate and the file's own rate; from the header alone where that is enough.

        Raises:
            AudioError: when the item cannot be used.
        """
        if "waveform" in item or split in self.recipe.min_samples:
            return len(self.read(item, split, None)), self.rate
        import soundfile

        path = _path(item)
        try:
            header = soundfile.info(path)
        except (soundfile.SoundFileError, TypeError, OSError):
            zoo.load_audio(path, self.rate)  # whatever is wrong, it says so
            raise AudioError(f"{path} cannot be used: its header cannot be read") from None
        if header.channels != 1:
            raise AudioError(f"{path} cannot be used: it has {header.channels} channels; mix it down to one first")
        if item.get("rate", header.samplerate) != header.samplerate:
            raise AudioError(
                f"{path} has {header.samplerate} Hz in a folder of {item['rate']} Hz; resample it or leave it out"
            )
        if header.samplerate != self.rate:
            self.foreign.add(path)
        end = header.duration if item.get("end_s") is None else min(header.duration, float(item["end_s"]))
        seconds = end - float(item.get("start_s", 0.0))
        return max(0, round(seconds * self.rate)), header.samplerate

    def _given(self, item: Item, start: float, end: float | None) -> Tensor:
        waveform = torch.as_tensor(item["waveform"])
        if waveform.dim() != 1 or not waveform.is_floating_point():
            raise AudioError(
                f"a waveform has shape {tuple(waveform.shape)} and {waveform.dtype}; give floating point (samples,)"
            )
        rate = int(item.get("sample_rate", 16_000))
        waveform = waveform.float()[round(start * rate) : None if end is None else round(end * rate)]
        if rate == self.rate:
            return waveform
        import soxr

        return torch.from_numpy(soxr.resample(waveform.numpy(), rate, self.rate, quality="HQ"))

    def _window(self, waveform: Tensor, seconds: float | None, draw: int) -> Tensor:
        length = len(waveform) if seconds is None else round(seconds * self.rate)
        if len(waveform) <= length:
            return waveform
        start = np.random.Generator(np.random.Philox(key=[self.seed, draw])).integers(len(waveform) - length + 1)
        return waveform[int(start) : int(start) + length]


class Kept:
    """What files of another sample rate sound like at the upstream's, kept where it is read again and again.

    Args:
        folder: for it.
        budget_bytes: once so much is kept, what else is read is not.
    """

    def __init__(self, folder: Path, budget_bytes: int) -> None:
        self.folder, self.left = folder, budget_bytes - sum(path.stat().st_size for path in folder.glob("*.npy"))
        self.lock = Lock()  # several threads read, even the same

    def read(self, path: str, rate: int, start_s: float, end_s: float | None) -> Tensor:
        """What `zoo.load_audio` gives."""
        name = hashlib.sha256(f"{rate} {start_s} {end_s} {path}".encode()).hexdigest()
        place = self.folder / f"{name}.npy"
        if place.is_file():
            return torch.from_numpy(np.load(place))
        waveform = zoo.load_audio(path, rate, start_s=start_s, end_s=end_s)
        data = io.BytesIO()
        np.save(data, waveform.numpy())
        with self.lock:
            if data.tell() <= self.left and not place.is_file():
                self.left -= data.tell()
                _files.write(place, data.getvalue())
        return waveform


def split(name: str, items: Mapping[str, Item], objective: Objective, audio: Audio, limit: int | None = None) -> Split:
    """A split with what cannot be used left out and counted.

    Args:
        name: of the split.
        items: of the corpus.
        objective: for targets.
        audio: for lengths.
        limit: take only so many, from the beginning.

    Raises:
        InputError: when nothing remains.
    """
    kept: dict[str, Item] = {}
    samples, label_lengths = [], []
    excluded: dict[str, str] = {}
    resampled: dict[int, int] = {}
    frame = audio.upstream.hop_length // 2 + 1 if audio.recipe.frames == "round" else 1  # at least one must count
    least = max(frame, audio.upstream.min_samples, audio.recipe.min_samples.get(name, 0))
    for key, item in objective.items(name, dict(list(items.items())[:limit])).items():
        try:
            count, rate = audio.samples(item, name)
            if count < least:
                raise AudioError(f"{_where(item)} has {count} samples at {audio.rate} Hz; at least {least} are needed")
            objective.check(name, item)
            length = objective.label_length(item) if name == "train" else 1
        except ZooError as error:
            excluded[key] = str(error)
            continue
        kept[key] = item
        samples.append(count)
        label_lengths.append(length)
        if rate != audio.rate:
            resampled[rate] = resampled.get(rate, 0) + 1
    if not kept:
        raise unusable(name, excluded)
    groups: list[Hashable] = classes(objective, kept) if name == "train" else [None] * len(kept)
    if name == "valid" and audio.recipe.valid_sampler is not None:
        groups = classes(objective, kept)
    seconds = sum(samples) / audio.rate
    return Split(name, kept, samples, groups, label_lengths, excluded, resampled, seconds)


def unusable(name: str, excluded: Mapping[str, str]) -> InputError:
    """Of a split of which nothing remains."""
    reason = next(iter(excluded.values()), "the corpus lists none")
    return InputError(f"no item of the split {name!r} can be used: {reason}")


def fingerprint(corpus: Corpus) -> str:
    """SHA-256 over ids, labels and sizes of audio files or waveforms: the same wherever the data lie."""
    digest = hashlib.sha256()
    for name, items in sorted(corpus.items()):
        for key, item in items.items():
            labels = {k: v for k, v in item.items() if k not in {"wav_path", "waveform"}}
            size: int | str = 0
            if "wav_path" in item:
                try:
                    size = os.path.getsize(item["wav_path"])
                except OSError:
                    size = -1
            elif "waveform" in item:
                size = _sound(item)
            digest.update(json.dumps([name, key, labels, size], sort_keys=True, default=str).encode())
    return digest.hexdigest()


def _sound(item: Item) -> str:
    """SHA-256 of a waveform."""
    return hashlib.sha256(np.ascontiguousarray(item["waveform"]).tobytes()).hexdigest()


def _where(item: Item) -> str:
    return str(item.get("wav_path", "a waveform"))


def _path(item: Item) -> str:
    if "wav_path" not in item:
        raise AudioError(f"an item has neither wav_path nor waveform: {cut(str(dict(item)))}")
    return str(item["wav_path"])
