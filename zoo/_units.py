"""Discrete units: the number of the k-means centroid that is nearest to each frame of one layer.

Introduced for pre-training by HuBERT (https://arxiv.org/abs/2106.07447) and as a text-like code of speech by GSLM
(https://arxiv.org/abs/2102.01192). The settings of the clustering are those of fairseq 2f5784c0,
examples/hubert/simple_kmeans/learn_kmeans.py (MIT).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from zoo import _native
from zoo._audio import Upstream
from zoo._store import model_digest
from zoo.errors import InputError, shown

MAX_FRAMES = 1_000_000  # 3 GB at width 768
MAX_FILE_BYTES = 1 << 30  # of what an .npz says that it unpacks to; a million centroids of width 256
CHUNK = 1 << 22  # float64 numbers at a time
FACTS = {"model": str, "layer": int, "model_sha256": str, "seed": int, "frames": int, "inertia": float}  # of a file
PICKLE = (
    "pickles such as fairseq's km.bin are not read, as that would run what they hold; if you trust yours, run "
    "numpy.savez('km.npz', centroids=joblib.load('km.bin').cluster_centers_) where scikit-learn is"
)


@dataclass(frozen=True, eq=False)
class Units:
    """A codebook: `units(states)` gives the nearest of C centroids for each frame.

    Attributes:
        centroids: (C, D) float32 on the CPU, finite.
        model: name or path of the model whose states they are of; empty where unknown.
        layer: index of the hidden state; None where unknown.
        model_sha256: of what that model computes: its class, configuration, padding mode and weights; empty where
            unknown.
        seed: of the draw and of the clustering; None where unknown.
        frames: how many they were fitted on; None where unknown.
        inertia: mean squared distance of those frames to their centroids; None where unknown.
    """

    centroids: Tensor
    model: str = ""
    layer: int | None = None
    model_sha256: str = ""
    seed: int | None = None
    frames: int | None = None
    inertia: float | None = None
    _tables: dict[torch.device, tuple[Tensor, Tensor]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        x = self.centroids
        if not isinstance(x, Tensor) or x.dim() != 2 or not x.numel() or not x.is_floating_point():
            found = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
            raise InputError(f"centroids are {found}; give floating point of shape (clusters, width)")
        x = x.detach().to("cpu", torch.float32, copy=True)
        if not x.isfinite().all():
            raise InputError("centroids hold NaN or infinity; fit them again")
        object.__setattr__(self, "centroids", x)

    @classmethod
    def fit(
        cls,
        states: Iterable[Tensor],
        clusters: int,
        *,
        seed: int = 0,
        max_frames: int = MAX_FRAMES,
        model: Upstream | None = None,
        name: str = "",
        layer: int | None = None,
    ) -> Units:
        """Cluster frames with scikit-learn's MiniBatchKMeans, with the settings that HuBERT was trained with.

        The same states and seed give the same units, on the same machine and libraries.

        Args:
            states: (T, D) of each utterance, of one layer, such as
                `(item.hidden_states[0] for item in zoo.extract(model, files, layers=[6]) if item.error is None)`; taken
                one by one, and not kept.
            clusters: C.
            seed: from 0 to 2**32 - 1.
            max_frames: what is clustered, 4 D bytes each in memory; of more frames, these are drawn at random, each
                with the same chance.
            model: what gave the states; its digest is kept.
            name: of the model, kept as it is.
            layer: index of the hidden state, kept as it is.

        Raises:
            InputError: when scikit-learn is missing, when there are fewer frames than clusters, for frames that are not
                finite or differ in width, and for numbers that cannot be.
        """
        whole = all(type(number) is int for number in (clusters, seed, max_frames))
        if not whole or not 0 < clusters <= max_frames or not 0 <= seed < 1 << 32:
            raise InputError(
                f"clusters={clusters!r}, max_frames={max_frames!r} and seed={seed!r} were asked for; give whole "
                "numbers, at least one cluster, as many frames as clusters, and a seed from 0 to 4294967295"
            )
        kmeans = _sklearn_cluster().MiniBatchKMeans(
            clusters,
            batch_size=10_000,
            n_init=20,
            max_no_improvement=100,
            reassignment_ratio=0.0,
            compute_labels=False,
            random_state=seed,
        )
        frames = _draw(states, max_frames, np.random.default_rng(seed))
        if len(frames) < clusters:
            raise InputError(
                f"{clusters} clusters were asked for, and there are {len(frames)} frames; give more audio or fewer "
                "clusters"
            )
        kmeans.fit(frames)
        digest = "" if model is None else model_digest(model)
        made = cls(torch.from_numpy(kmeans.cluster_centers_), name, layer, digest, seed, len(frames))
        return replace(made, inertia=float(made._nearest(torch.from_numpy(frames))[1].mean()))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Units:
        """Read an .npz file; nothing that it holds is run.

        Args:
            path: of `save`, or of `numpy.savez(path, centroids=...)`, which says nothing of its model and layer.

        Raises:
            InputError: when there is no such file, or it is damaged, a pickle or something else.
        """
        return _load(Path(path))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write an .npz file that appears whole or not at all: `centroids`, and `metadata`, the rest as JSON.

        Raises:
            InputError: when it cannot be written.
        """
        metadata = json.dumps({key: getattr(self, key) for key in FACTS})
        with _native.replacing(Path(path)) as file:
            np.savez(file, centroids=self.centroids.numpy(), metadata=np.array(metadata))

    def __call__(self, states: Tensor) -> Tensor:
        """The number of the nearest centroid of each frame, the first of those that are equally near.

        In float64, so that neither rounding nor a setting for fast matrix products changes a unit.

        Args:
            states: (..., D), of any floating-point dtype, on any device.

        Returns:
            (...) int32 on the same device.

        Raises:
            InputError: for another width, and for states that are not finite.
        """
        return self._nearest(states)[0]

    def check(self, model: Upstream, layer: int) -> None:
        """Refuse another model or layer than they were fitted on, as far as the file says.

        Args:
            model: in the padding mode that it is to run in.
            layer: index of the hidden state, not negative.

        Raises:
            InputError: with what differs.
        """
        if self.layer is not None and self.layer != layer:
            raise InputError(
                f"the units are of layer {self.layer}, and layer {layer} was asked for; ask for layer {self.layer}, or "
                f"fit units of layer {layer}"
            )
        if self.model_sha256 and self.model_sha256 != model_digest(model):
            raise InputError(
                f"the units are of {shown(self.model) if self.model else 'another model'}, from which this one differs "
                "in weights, configuration or padding; take that model, or fit units of this one"
            )

    def _nearest(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Nearest centroid of each frame, (...) int32, and its squared distance, (...) float64."""
        count, width = self.centroids.shape
        if not states.is_floating_point() or not states.dim() or states.shape[-1] != width:
            raise InputError(
                f"the units are of width {width}, and states are {states.dtype} {tuple(states.shape)}; give floating "
                f"point of shape (frames, {width})"
            )
        x = states.detach().reshape(-1, width)
        device = torch.device("cpu") if x.device.type == "mps" else x.device  # which has no float64
        half, table = self._table(device)
        units = torch.empty(len(x), dtype=torch.int32, device=device)
        distances = torch.empty(len(x), dtype=torch.float64, device=device)
        step = max(1, CHUNK // (count + width))
        for start in range(0, len(x), step):
            part = x[start : start + step].to(device, torch.float64)
            best, index = torch.addmm(half, part, table, alpha=-1).min(1)  # (|x - c|^2 - |x|^2) / 2
            units[start : start + step] = index
            distances[start : start + step] = (2 * best + part.square().sum(1)).clamp(min=0)
        if not distances.isfinite().all():
            raise InputError("the states hold NaN or infinity, which is near to no centroid; use a model in float32")
        return units.view(states.shape[:-1]).to(states.device), distances.view(states.shape[:-1])

    def _table(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Half the squared norms of the centroids (C,), and the centroids (D, C), as the product takes them."""
        if device not in self._tables:
            table = self.centroids.to(device, torch.float64)
            self._tables[device] = 0.5 * table.square().sum(1), table.T
        return self._tables[device]


def _sklearn_cluster() -> Any:
    try:
        return import_module("sklearn.cluster")
    except ImportError as error:
        raise InputError(
            f"fitting units needs scikit-learn, which cannot be imported ({error}): pip install scikit-learn, or the "
            "zoo's extra 'units'"
        ) from error


def _draw(states: Iterable[Tensor], count: int, draw: np.random.Generator) -> np.ndarray[Any, np.dtype[np.float32]]:
    """At most `count` frames (N, D) of a stream, each with the same chance (Vitter's algorithm R), allocated once."""
    kept, seen = np.empty((0, 0), np.float32), 0
    for state in states:
        if state.dim() != 2 or not state.is_floating_point() or (seen and state.shape[1] != kept.shape[1]):
            width = kept.shape[1] if seen else "width"
            raise InputError(f"states are {state.dtype} {tuple(state.shape)}; give floating point (frames, {width})")
        frames = state.detach().to("cpu", torch.float32).numpy()
        if not np.isfinite(frames).all():
            raise InputError("states hold NaN or infinity, which cannot be clustered; use a model in float32")
        if not seen:
            try:
                kept = np.empty((count, frames.shape[1]), np.float32)
            except (MemoryError, ValueError):
                raise InputError(
                    f"{count} frames of width {frames.shape[1]} are more than memory holds; give fewer"
                ) from None
        free = min(len(frames), max(0, count - seen))
        kept[seen : seen + free] = frames[:free]
        places = draw.integers(0, np.arange(seen + free, seen + len(frames)) + 1)
        chosen = places < count
        kept[places[chosen]] = frames[free:][chosen]  # of those that take the same place, the last stays
        seen += len(frames)
    return kept[:seen]


def _load(path: Path) -> Units:
    try:
        opened = path.open("rb")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    with opened:
        if opened.read(4) != b"PK\x03\x04":
            raise InputError(f"{path} is no .npz file of centroids: {PICKLE}")
        try:
            centroids, metadata, size = _arrays(opened)
        except Exception:  # zipfile and NumPy raise whatever a damaged file makes them stumble over
            raise InputError(
                f"{path} is damaged, or holds pickled objects, which are not read; fit the units again"
            ) from None
    if centroids is None:
        found = f"{size} bytes" if size > MAX_FILE_BYTES else "no array 'centroids'"
        raise InputError(f"{path} is no file of units: it holds {found}; make one with python -m zoo units fit")
    if centroids.dtype.kind != "f":
        raise InputError(f"{path} holds centroids as {centroids.dtype}; give floating point of shape (clusters, width)")
    try:
        return Units(torch.from_numpy(np.array(centroids, np.float64)), **_facts(metadata))
    except InputError as error:
        raise InputError(f"{path} cannot be used: its {error}") from None


def _arrays(opened: BinaryIO) -> tuple[Any, Any, int]:
    """Centroids, None where there are none or too much, and metadata; and the bytes that the file unpacks to."""
    opened.seek(0)
    with np.load(opened, allow_pickle=False) as file:
        size = sum(member.file_size for member in file.zip.infolist())
        centroids = file["centroids"] if "centroids" in file and size <= MAX_FILE_BYTES else None
        metadata = file["metadata"] if "metadata" in file and centroids is not None else np.array("{}")
    for array in (centroids, metadata):
        if isinstance(array, bytes):  # so NumPy gives what is no array
            raise ValueError
    return centroids, metadata, size


def _facts(metadata: np.ndarray[Any, Any]) -> dict[str, Any]:
    """The fields of `Units` beside the centroids; what a later version adds is left."""
    try:
        found = json.loads(str(metadata)) if metadata.dtype.kind == "U" and not metadata.ndim else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InputError("metadata are no JSON object; fit the units again")
    for key, kind in FACTS.items():
        value = found.get(key)
        if value is not None and type(value) is not kind:
            raise InputError(f"metadata give {key!r} as {shown(value)}; fit the units again")
    return {key: found[key] for key in FACTS if found.get(key) is not None}
