"""Features of items as heads take them: from a store where that gives the same numbers, else on the fly.

Shapes: B batch, T frames, D width, K hidden states.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import zoo
from zoo.benchmark._data import Audio, Split
from zoo.benchmark._upstream import Upstream
from zoo.errors import AudioError

AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
POOLED, FRAMES, ON_THE_FLY = "pooled store", "frame store", "on the fly"
READERS = 4  # threads; libsndfile decodes beside each other
EVALUATION_S = 64.0  # audio of a batch, where what is in it does not matter


@dataclass(frozen=True)
class View:
    """What a head sees of an upstream's hidden states.

    Attributes:
        layers: which, as indices without negatives.
        normalize: layer norm without parameters over D, of every state.
        frames: "round", "ceil" or "all", see `Recipe`.
        pools: the mean over the valid frames stands for them.
        exact: frames depend on their own utterance only, see `padding`.
    """

    layers: tuple[int, ...]
    normalize: bool
    frames: str
    pools: bool
    exact: bool

    def take(
        self, states: Sequence[Tensor], lengths: Tensor, samples: Sequence[int], hop_samples: int
    ) -> tuple[Tensor, Tensor]:
        """Features and their valid frames.

        Args:
            states: K tensors (B, T, D).
            lengths: (B,) frames that the upstream calls valid.
            samples: of each utterance.
            hop_samples: from one frame to the next.

        Returns:
            (B, K, T, D), zero past the valid frames, and (B,).
        """
        x = torch.stack(list(states), dim=1)
        if self.normalize:
            x = F.layer_norm(x, x.shape[-1:])
        given = lengths.to(x.device) if self.exact else torch.full_like(lengths, x.shape[2], device=x.device)
        x_len = given
        if self.frames != "all":
            wanted = torch.tensor([valid_frames(n, hop_samples, self.frames) for n in samples], device=x.device)
            x_len = torch.minimum(wanted, given) if self.frames == "round" else wanted.where(given > 0, given)
        index = torch.arange(max(1, int(x_len.max())), device=x.device)
        there = index < x_len[:, None]
        index = torch.minimum(index.expand(len(samples), -1), (given - 1).clamp(min=0)[:, None])
        x = x.gather(2, index[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3]))
        x = x.masked_fill(~there[:, None, :, None], 0.0)
        if not self.pools:
            return x, x_len
        mean = x.float().sum(2, keepdim=True) / x_len.clamp(min=1)[:, None, None, None]
        return mean, x_len.clamp(max=1)


def valid_frames(samples: int, hop_samples: int, rule: str) -> int:
    """Frames that count of an utterance: see `Recipe.frames`."""
    return round(samples / hop_samples) if rule == "round" else (samples - 1) // hop_samples + 1


class Features:
    """Features of the items of a corpus.

    Args:
        upstream: gives them.
        audio: reads the items.
        view: what of them is used.
        splits: of the corpus.
        precision: "fp32", "bf16" or "fp16": autocast of the upstream.
        trained: gradients flow to the upstream.
        again: the splits that are read again and again, which a frame store keeps.
    """

    def __init__(
        self,
        upstream: Upstream,
        audio: Audio,
        view: View,
        splits: Mapping[str, Split],
        *,
        precision: str = "fp32",
        trained: bool = False,
        again: Sequence[str] = ("train", "valid"),
    ) -> None:
        self.upstream, self.audio, self.view, self.splits, self.trained = upstream, audio, view, splits, trained
        self.again = again
        self.autocast = AUTOCAST[precision]
        self.store: zoo.FeatureStore | None = None
        self.table: Tensor | None = None
        self.kind = ON_THE_FLY
        self.readers = ThreadPoolExecutor(READERS, "zoo-read")
        self.expected: dict[tuple[str, str, int], Future[Tensor]] = {}
        self.whole: set[str] = set()  # splits of which every item is stored
        # split -> id -> where a store keeps it; "" for what does not sound the same each time
        self.places = {
            name: {
                key: "" if audio.is_random(item, name, samples) else audio.place(item, name)
                for (key, item), samples in zip(split.items.items(), split.samples)
            }
            for name, split in splits.items()
        }

    @property
    def input_size(self) -> int:
        """D."""
        return int(self.upstream.width)

    def fixed(self, kind: str) -> dict[str, tuple[str, str]]:
        """What a store of this kind keeps: place -> split and id of an item that sounds like this."""
        return {
            self.places[name][key]: (name, key)
            for name, split in self.splits.items()
            if kind == POOLED or name in self.again
            for key in split.items
            if self.places[name][key]
        }

    def storable(self) -> str:
        """Which store gives the numbers that the upstream gives on the fly, if any."""
        if self.trained or not self.view.exact:
            return ON_THE_FLY
        return POOLED if self.view.pools else FRAMES

    def use(self, store: zoo.FeatureStore, kind: str) -> None:
        """Take features from a store of this kind where it has them."""
        self.store, self.kind = store, kind
        for name, split in self.splits.items():
            for key in split.ids:
                if why := store.errors.get(self.places[name][key]):
                    split.drop(key, why)
        self.whole = {
            name for name, one in self.splits.items() if all(self.places[name][key] in store for key in one.items)
        }
        if kind == POOLED:
            self.table = self._on_device(store.tensor())

    def _on_device(self, table: Tensor) -> Tensor:
        """The pooled store where heads are trained, if it fits there easily."""
        device = self.upstream.device
        if device.type == "cuda" and table.numel() * table.element_size() * 4 < torch.cuda.mem_get_info(device)[0]:
            return table.to(device)
        return table

    def batch(self, name: str, keys: Sequence[str], draws: Sequence[int]) -> tuple[Tensor, Tensor, list[int]]:
        """Features of some items.

        Args:
            name: of their split.
            keys: their ids; one may come twice.
            draws: of each, the number that decides about its random parts.

        Returns:
            x (B, K, T, D), x_len (B,), and which of the keys they are: an item that cannot be read is left out, and
            is counted among the split's excluded ones.
        """
        split, store = self.splits[name], self.store
        place = self.places[name]
        stored = [store is not None and place[key] in store for key in keys]
        device = self.upstream.device
        if all(stored) and store is not None:
            if self.table is not None:
                x = self.table.index_select(0, store.positions(place[key] for key in keys).to(self.table.device))
                return x.to(device), torch.ones(len(keys), dtype=torch.int64, device=device), list(range(len(keys)))
            x, x_len = store.batch(place[key] for key in keys)
            return x.to(device), x_len.to(device), list(range(len(keys)))
        self.expect(name, keys, draws)
        waveforms: dict[int, Tensor] = {}
        for i, key in enumerate(keys):
            if not stored[i]:
                try:
                    waveforms[i] = self.expected[name, key, draws[i]].result()
                except AudioError as error:
                    split.excluded.setdefault(key, str(error))
        for key, draw in zip(keys, draws):
            self.expected.pop((name, key, draw), None)
        kept = [i for i in range(len(keys)) if stored[i] or i in waveforms]
        if not kept:
            return torch.zeros(0, len(self.view.layers), 0, self.input_size), torch.zeros(0, dtype=torch.int64), []
        parts: list[tuple[Tensor, Tensor]] = []
        if waveforms:
            parts.append(self._run(list(waveforms.values())))
        here = [i for i in kept if stored[i]]
        if here and store is not None:
            x, x_len = store.batch(place[keys[i]] for i in here)
            parts.append((x.to(device), x_len.to(device)))
        if len(parts) == 1:
            return (*parts[0], kept)
        order = torch.tensor([*waveforms, *here], device=device).argsort()
        frames = max(x.shape[2] for x, _ in parts)
        x = torch.cat([F.pad(x, (0, 0, 0, frames - x.shape[2])) for x, _ in parts])[order]
        return x, torch.cat([x_len for _, x_len in parts])[order], kept

    def expect(self, name: str, keys: Sequence[str], draws: Sequence[int]) -> None:
        """Begin to read the recordings of a batch that will be asked for."""
        if name in self.whole:
            return
        for key, draw in zip(keys, draws):
            place = (name, key, draw)
            if place not in self.expected and not (self.store is not None and self.places[name][key] in self.store):
                self.expected[place] = self.readers.submit(self._waveform, *place)

    def _waveform(self, name: str, key: str, draw: int) -> Tensor:
        waveform = self.audio.read(self.splits[name].items[key], name, draw)
        if len(waveform) < max(1, self.upstream.min_samples):
            raise AudioError(f"{key} has {len(waveform)} samples, too few for the upstream")
        return waveform

    def _run(self, waveforms: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        device = self.upstream.device
        with torch.set_grad_enabled(self.trained and torch.is_grad_enabled()), self.autocasting():
            out = self.upstream([w.to(device) for w in waveforms], layers=list(self.view.layers))
        samples = [len(w) for w in waveforms]
        states = [state.float() for state in out.hidden_states]
        return self.view.take(states, out.lengths, samples, self.upstream.hop_length)

    def autocasting(self) -> torch.autocast:
        """The precision of the upstream."""
        return torch.autocast(self.upstream.device.type, self.autocast, enabled=self.autocast is not None)

    def evaluation_batches(self, name: str, keys: Sequence[str], size: int) -> Iterator[list[int]]:
        """Positions of the keys in batches: of the size given, unless neighbours do not matter."""
        if not self.view.exact:
            yield from (list(range(i, min(i + size, len(keys)))) for i in range(0, len(keys), size))
            return
        split = self.splits[name]
        seconds = dict(zip(split.items, (n / self.audio.rate for n in split.samples)))
        batch: list[int] = []
        for i in sorted(range(len(keys)), key=lambda i: -seconds[keys[i]]):
            room = 1024 if self.table is not None else EVALUATION_S / max(seconds[keys[batch[0] if batch else i]], 0.1)
            if batch and len(batch) >= room:
                yield batch
                batch = []
            batch.append(i)
        if batch:
            yield batch

    def each(self, name: str) -> Iterator[tuple[str, Tensor]]:
        """Every item of a split with its features (K, T, D), on the CPU."""
        for key in self.splits[name].ids:
            x, x_len, kept = self.batch(name, [key], [0])
            if kept:
                yield key, x[0, :, : int(x_len[0])].cpu()

    def seconds_per_second(self) -> float:
        """How long the upstream takes for a second of audio, measured on five."""
        noise = [torch.randn(5 * self.audio.rate) * 0.1]
        with torch.no_grad():
            self._run(noise)
            begun = time.perf_counter()
            self._run(noise)
            if self.upstream.device.type == "cuda":
                torch.cuda.synchronize(self.upstream.device)
        return (time.perf_counter() - begun) / 5


class Waveforms(Mapping[str, Any]):
    """What a store keeps of the folds of a corpus: under its place each waveform, read when it is asked for.

    What stands in several folds or splits, and sounds the same there, is kept once.

    Args:
        folds: features of each.
        kind: of the store.
    """

    def __init__(self, folds: Sequence[Features], kind: str) -> None:
        self.features, self.kind = folds[0], kind
        self.places = {
            place: (one, *where) for one in reversed(folds) for place, where in reversed(one.fixed(kind).items())
        }
        self.places = dict(reversed(self.places.items()))  # in the order of the first fold
        self.samples: dict[str, int] = {}

    @property
    def seconds(self) -> list[float]:
        """Length of each."""
        lengths = {
            id(one): {n: dict(zip(s.items, s.samples)) for n, s in one.splits.items()}
            for one, *_ in self.places.values()
        }
        return [lengths[id(one)][name][key] / one.audio.rate for one, name, key in self.places.values()]

    def estimate(self) -> int:
        """Bytes of their store."""
        view, pool = self.features.view, "mean" if self.kind == POOLED else None
        return zoo.FeatureStore.estimate(self.features.upstream, self.seconds, layers=list(view.layers), pool=pool)

    def store(self, folder: Path, budget_bytes: int, fingerprint: str, progress: bool) -> zoo.FeatureStore:
        """Make the store, or open the one that is there."""
        with self.features.autocasting():
            return zoo.FeatureStore.create(
                folder,
                self.features.upstream,
                self,
                layers=list(self.features.view.layers),
                pool="mean" if self.kind == POOLED else None,
                transform=self.transform,
                budget_bytes=budget_bytes,
                progress=progress,
                fingerprint=fingerprint,
            )

    def __len__(self) -> int:
        return len(self.places)

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __getitem__(self, place: str) -> Tensor:
        one, name, key = self.places[place]
        waveform = one.audio.read(one.splits[name].items[key], name)
        self.samples[place] = len(waveform)
        return waveform

    def transform(self, place: str, states: Tensor) -> Tensor:
        """States (K, T, D) by the rule for frames."""
        view, lengths = self.features.view, torch.tensor([states.shape[1]])
        x, x_len = view.take(
            [state[None].float() for state in states],
            lengths,
            [self.samples.pop(place)],
            self.features.upstream.hop_length,
        )
        return x[0, :, : int(x_len[0])]
