"""Spectral features as models of their own, with one hidden state and no weights: where every benchmark table starts.

Upstream: s3prl `upstream/baseline` (ec8064b5, Apache-2.0), read for facts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.models._family import EncoderOutput, Family, Preset
from zoo.models._spectral import SpectralConfig, SpectralModel


@dataclass(frozen=True, kw_only=True)
class BaselineConfig(SpectralConfig):
    """A spectral front end and nothing behind it."""

    @property
    def num_layers(self) -> int:
        """L: none, so there is one hidden state."""
        return 0

    @property
    def width(self) -> int:
        """D: that of the features."""
        return self.feature_width


class Baseline(SpectralModel):
    """Waveforms to spectral features."""

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__(config)
        self.config: BaselineConfig = config
        self._like = torch.empty(0, device="cpu")  # stands for the parameters that it does not have

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Baseline:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._like = fn(self._like)
        return self

    @property
    def num_layers(self) -> int:
        """L: none, so there is one hidden state."""
        return 0

    def forward(
        self,
        waveforms: Tensor | Sequence[Tensor],
        lengths: Tensor | Sequence[int] | None = None,
        *,
        layers: Sequence[int] | None = None,
    ) -> EncoderOutput:
        """Features of a batch of utterances; arguments and errors as those of every model.

        Returns:
            EncoderOutput with one hidden state (B, T, D) for each layer asked for, all of them the features.
        """
        wanted = self.layer_indices(layers)
        x, frames = self.features(waveforms, lengths, self._like)
        return EncoderOutput((x.to(self._like.dtype),) * len(wanted), frames)


def _preset(name: str, config: BaselineConfig, *aliases: str) -> Preset:
    return Preset(
        name=name,
        config=config,
        parameters=0,
        data="none",
        licence="Apache-2.0",
        paper="https://arxiv.org/abs/2105.01051",
        sources=(),
        aliases=aliases,
        notes="computed from the waveform, without weights",
    )


FBANK = BaselineConfig(family="baseline", features="fbank", delta_order=2)
PRESETS = (
    _preset("fbank", FBANK, "baseline"),
    _preset("fbank_no_cmvn", BaselineConfig(family="baseline", features="fbank", delta_order=2, cmvn=False)),
    _preset("mfcc", BaselineConfig(family="baseline", features="mfcc", mel_bands=23, delta_order=2)),
    _preset("spectrogram", BaselineConfig(family="baseline", features="spectrogram")),
    _preset("mel", BaselineConfig(family="baseline", features="mel", trailing_silence=False)),
    _preset("linear", BaselineConfig(family="baseline", features="linear", trailing_silence=False)),
)

FAMILY = Family(name="baseline", config=BaselineConfig, model=Baseline, presets=PRESETS)
