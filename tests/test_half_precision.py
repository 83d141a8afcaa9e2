"""bfloat16 and float16: finite on silent, quiet, loud and clipped audio, and as close as the tolerance table says."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

import zoo
from tests.families import KINDS, tiny
from tests.golden import generator
from tests.golden.compare import HALF_ERROR
from zoo.models._family import Model

DTYPES = (torch.bfloat16, torch.float16)

# Signals whose error is held to the table. In silence and next to it relative error means nothing, and a model without
# waveform normalisation sees an off-centre waveform rounded to eight bits.
CLOSE = (2, 3, 4, 6)


def signals(shortest: int) -> tuple[Tensor, list[int]]:
    """Silent, quiet, loud, clipped, off-centre and very short audio, as one padded batch."""
    speech = torch.from_numpy(
        generator.waveform({"file": "2412-153948-0000.flac", "start": 60000, "samples": 6000, "gain": 1.0})
    )
    kinds = [
        torch.zeros(6000),
        speech * 1e-4,
        speech * 0.1,
        speech / speech.abs().max(),
        (speech * 1000).clamp(-1, 1),
        speech[:4000] * 0.1 + 0.02,
        speech[:shortest],
    ]
    lengths = [len(x) for x in kinds]
    return torch.nn.utils.rnn.pad_sequence(kinds, batch_first=True, padding_value=float("nan")), lengths


def with_weights(model: Model, scale: str) -> Model:
    """Random weights of the given liveliness."""
    state = {
        name: torch.from_numpy(generator.tensor(name, tuple(tensor.shape), 7, scale))
        for name, tensor in model.state_dict().items()
    }
    model.load_state_dict(state)
    return model


def relative_error(got: Tensor, want: Tensor) -> float:
    """Root mean square difference over root mean square."""
    return float((got.float() - want).square().mean().sqrt() / want.square().mean().sqrt())


@pytest.mark.parametrize("scale", ["usual", "lively"])
@pytest.mark.parametrize("name", KINDS)
@torch.no_grad()
def test_finite_and_close(name: str, scale: str, record_differences) -> None:
    depth = 24 if "large" in name else 12
    model = with_weights(tiny(name, num_layers=depth), scale)
    waveforms, lengths = signals(model.min_samples)
    want = model(waveforms, lengths).hidden_states
    for dtype in DTYPES:
        row = str(dtype).removeprefix("torch.")
        got = copy.deepcopy(model).to(dtype)(waveforms, lengths).hidden_states
        worst = 0.0
        for a, b in zip(got, want):
            assert a.dtype == dtype and torch.isfinite(a).all()
            worst = max(worst, *(relative_error(a[i], b[i]) for i in CLOSE))
        record_differences(row, {scale: worst})
        assert worst <= HALF_ERROR[row]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hubert_base", "wavlm_large"])
@torch.no_grad()
def test_finite_at_full_size(name: str) -> None:
    torch.manual_seed(0)
    model = zoo.build(name)
    waveforms, lengths = signals(model.min_samples)
    for dtype in DTYPES:
        for state in model.to(dtype)(waveforms, lengths).hidden_states:
            assert torch.isfinite(state).all()
