"""HEAR's common API for any model of the zoo, so that the official kit (heareval) and validator take it as it is.

    python -m heareval.embeddings.runner zoo.benchmark.hear_api --model-options '{"name": "wavlm_base"}'

API: https://hearbenchmark.com/hear-api.html. The kit gives equally long clips without a mask; zeros at their end are
part of the clip, here as there.

Timestamps are the middles of frames in milliseconds, `model.frame_centres` in double precision, so that they do not
drift: 12.5 + 20 i for wav2vec 2.0 and its kin, 12.5 + 10 i for Kaldi's features, 10 i for TERA's centred ones.

No more than `chunk_s` seconds of audio are run at a time: clips side by side, or chunks of a longer one, as
`zoo.benchmark run hear/...` does too. Chunks begin on the clip's grid of frames, so times are those of the whole clip.
An eighth of a chunk on either side is heard but not kept. What looks no further than that (local features,
convolutions) is as without chunks; attention sees its chunk alone, and normalisation over time (of the waveform, a
group norm's, that of spectral features) is each chunk's own.

A clip that is shorter than `min_samples` is filled up with zeros. Frames of it whose middle lies behind its end are
dropped, but for the first, whose time is then the clip's end.

Shapes: n clips, S samples, T frames, D width, K hidden states.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import zoo
from zoo.benchmark._upstream import CONTEXT, chunks, evaluating
from zoo.errors import InputError, shown

DEFAULTS: dict[str, Any] = {
    "name": "hubert_base",
    "layer": -1,
    "combine": "concatenate",
    "weights": None,
    "padding": "exact",
    "chunk_s": 120.0,  # every HEAR task but Beehive States has clips of two minutes at most
    "pooling": "mean",
}
CHOICES = {"combine": ("concatenate", "mean", "weights"), "padding": ("exact", "reference"), "pooling": ("mean",)}
SAMPLE_RATES = (16_000, 22_050, 32_000, 44_100, 48_000)  # at which HEAR's audio can be had
MIN_CHUNK_S = 1.0


class HearModel(nn.Module):
    """A model of the zoo, and which of its hidden states are the embedding.

    Args:
        model: what `zoo.load` gives.
        layers: indices of hidden states.
        weights: of a sum over them; None: they are put side by side.
        chunk_s: seconds of audio that are run at a time.

    Attributes:
        sample_rate: Hz.
        scene_embedding_size, timestamp_embedding_size: width of what the API's functions return.

    Raises:
        InputError: for layers that the model does not have, and chunks that are too short for it.
    """

    def __init__(self, model: Any, layers: list[int] | None, weights: list[float] | None, chunk_s: float) -> None:
        super().__init__()
        self.model = model
        self.layers = list(model.layer_indices(layers))
        if weights is not None and len(weights) != len(self.layers):
            raise InputError(f"{len(weights)} weights were given for {len(self.layers)} layers; give one for each")
        self.weights = weights
        self.sample_rate: int = model.sample_rate
        self.chunk_samples = int(chunk_s * self.sample_rate)
        least = max(MIN_CHUNK_S, CONTEXT * model.min_samples / self.sample_rate)
        if self.chunk_samples < least * self.sample_rate:
            raise InputError(f"chunk_s={chunk_s:g} was asked for; this model needs chunks of {least:g} s at least")
        width: int = model.config.width
        size = width * len(self.layers) if weights is None else width
        self.scene_embedding_size = self.timestamp_embedding_size = size
        self.eval()

    def forward(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings of every frame, in eval mode and without gradients whatever the module is set to.

        Args:
            audio: (n, S) floating point at `sample_rate`, on any device.

        Returns:
            (n, T, size) fp32 on the model's device, and (T,) fp64 times in milliseconds on the CPU.

        Raises:
            InputError: for anything else.
        """
        _check_audio(audio, "(clips, samples)", 2)
        audio, centres = self._filled(audio)
        rows = max(1, self.chunk_samples // audio.shape[1])
        with evaluating(self), torch.no_grad():
            parts = [
                torch.cat([self._combined(s) for s in chunks(self.model, part, self.chunk_samples, self.layers)], 1)
                for part in torch.split(audio, rows)
            ]
        return torch.cat(parts)[:, : len(centres)], centres * 1000.0 / self.sample_rate

    def pooled(self, clips: Sequence[Tensor]) -> Tensor:
        """One embedding a clip, the mean of its frames, of clips that may differ in length.

        With `padding="exact"` each gives what it gives alone.

        Args:
            clips: (S,) floating point at `sample_rate`, on any device; one at least.

        Returns:
            (n, scene_embedding_size) fp32 on the model's device.

        Raises:
            InputError: for clips that are none.
        """
        for clip in clips:
            _check_audio(clip, "(samples,)", 1)
        found: dict[int, Tensor] = {}
        for group in self._groups([len(clip) for clip in clips]):
            if len(group) == 1:
                found[group[0]] = self(clips[group[0]][None])[0][0].mean(0)
                continue
            filled = [self._filled(clips[i]) for i in group]
            with evaluating(self), torch.no_grad():
                out = self.model([clip for clip, _ in filled], layers=self.layers)
            frames = self._combined(out.hidden_states)
            for i, row, (_, centres), valid in zip(group, frames, filled, out.lengths.tolist()):
                found[i] = row[: min(len(centres), valid)].mean(0)
        return torch.stack([found[i] for i in range(len(clips))])

    def _groups(self, samples: list[int]) -> Iterator[list[int]]:
        """Indices of clips of similar length, padded no more than a chunk together; a longer clip is alone."""
        group: list[int] = []
        for i in sorted(range(len(samples)), key=samples.__getitem__):
            if group and (len(group) + 1) * max(samples[i], self.model.min_samples) > self.chunk_samples:
                yield group
                group = []
            group.append(i)
        if group:
            yield group

    def _filled(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Clips (..., S) that have `min_samples` at least, and (T,) middles of the frames that are kept, in samples."""
        model: Any = self.model
        samples = audio.shape[-1]
        missing = max(0, model.min_samples - samples)
        centres: Tensor = model.frame_centres(samples + missing)
        if missing:
            centres = centres[: max(1, int((centres <= samples).sum()))].clamp(max=samples)
        return nn.functional.pad(audio, (0, missing)), centres

    def _combined(self, states: tuple[Tensor, ...]) -> Tensor:
        """K states (n, T, D) of any dtype as one in fp32."""
        if self.weights is None:
            return torch.cat([state.float() for state in states], 2)
        return torch.stack([w * state.float() for w, state in zip(self.weights, states)]).sum(0)


def load_model(model_file_path: str = "", **options: Any) -> HearModel:
    """A model for the kit, in eval mode on the CPU.

    Args:
        model_file_path: a checkpoint, or a name of the registry; empty: the option `name`.
        options: of the kit's `--model-options`. `name`: as `zoo.load` takes it (default "hubert_base"); `layer`: index
            of a hidden state (default -1, the last), a list of them, or "all"; `combine`: "concatenate" (default),
            "mean" or "weights", of several; `weights`: factors of the sum, used as they are; `padding`: "exact"
            (default) or "reference"; `chunk_s`: seconds of audio that are run at a time (default 120); `pooling`:
            "mean", over the frames of a scene.

    Raises:
        ZooError: for an option that is not known or cannot be, for what `zoo.load` refuses, and for a model that hears
            at a rate at which HEAR's audio cannot be had.
    """
    model = embedder(model_file_path, **options)
    if model.sample_rate not in SAMPLE_RATES:
        name = model_file_path or options.get("name", DEFAULTS["name"])
        raise InputError(f"{name} expects audio of {model.sample_rate} Hz, in which HEAR's cannot be had")
    return model


def embedder(model_file_path: str = "", **options: Any) -> HearModel:
    """What `load_model` gives, of a model that hears at any rate; for programs with audio of their own.

    Args:
        model_file_path: as in `load_model`.
        options: as in `load_model`.

    Raises:
        ZooError: for an option that is not known or cannot be, and for what `zoo.load` refuses.
    """
    unknown = sorted(set(options) - set(DEFAULTS))
    if unknown:
        raise InputError(f"the option {shown(unknown[0])} was given; known are {', '.join(DEFAULTS)}")
    if model_file_path and "name" in options:
        raise InputError(f"both the model file {model_file_path} and the name {shown(options['name'])} were given")
    given = {**DEFAULTS, **options}
    for option, allowed in CHOICES.items():
        if given[option] not in allowed:
            raise InputError(f"{option}={shown(given[option])} was asked for; choose {' or '.join(allowed)}")
    if not _numbers([given["chunk_s"]]):
        raise InputError(f"chunk_s={shown(given['chunk_s'])} was asked for; give a number of seconds")
    weights = given["weights"]
    if (weights is not None) != (given["combine"] == "weights") or (weights is not None and not _numbers(weights)):
        raise InputError(
            f"combine={given['combine']} came with weights={shown(weights)}; combine=weights takes a list of numbers, "
            "one for each layer, and nothing else takes any"
        )
    name = model_file_path or given["name"]
    model = zoo.load(name, padding=given["padding"])
    if model.takes != "waveforms":
        raise InputError(f"{name} takes features of another model, not audio; give a speech model")
    layers = _layers(given["layer"])
    if given["combine"] == "mean":
        count = len(model.layer_indices(layers))
        weights = [1 / count] * count
    return HearModel(model, layers, weights, given["chunk_s"])


def get_scene_embeddings(audio: Tensor, model: HearModel) -> Tensor:
    """One embedding a clip: the mean of its frames.

    Args:
        audio: (n, S) floating point at `model.sample_rate`, in [-1, 1].
        model: from `load_model`.

    Returns:
        (n, scene_embedding_size) fp32.

    Raises:
        InputError: for audio that is none.
    """
    return model(audio)[0].mean(1)  # type: ignore[no-any-return]


def get_timestamp_embeddings(audio: Tensor, model: HearModel) -> tuple[Tensor, Tensor]:
    """An embedding for each frame, and when it is.

    Args:
        audio: (n, S) floating point at `model.sample_rate`, in [-1, 1].
        model: from `load_model`.

    Returns:
        (n, T, timestamp_embedding_size) fp32, and (n, T) fp64 milliseconds on the CPU.

    Raises:
        InputError: for audio that is none.
    """
    embeddings, times = model(audio)
    return embeddings, times.repeat(len(embeddings), 1)


def _check_audio(audio: object, shape: str, dims: int) -> None:
    if not isinstance(audio, Tensor) or audio.dim() != dims or 0 in audio.shape or not audio.is_floating_point():
        found = f"{audio.dtype} {tuple(audio.shape)}" if isinstance(audio, Tensor) else type(audio).__name__
        raise InputError(f"audio must be a floating-point tensor {shape}, none empty; found {found}")


def _layers(layer: object) -> list[int] | None:
    """Indices as the option `layer` says them; None for all."""
    if layer == "all":
        return None
    indices = layer if isinstance(layer, (list, tuple)) else [layer]
    if not indices or not all(type(i) is int for i in indices):
        raise InputError(f"layer={shown(layer)} was asked for; give an index, a list of them or all")
    return list(indices)


def _numbers(values: object) -> bool:
    """Whether these are finite numbers in a list."""
    return isinstance(values, (list, tuple)) and all(type(v) in (int, float) and math.isfinite(v) for v in values)
