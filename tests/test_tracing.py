"""One graph for any batch and any length: torch.export, torch.compile(fullgraph=True) and ONNX give eager's numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.families import BASELINES, KINDS, tiny
from tests.golden.compare import TOLERANCES
from zoo.layers.masking import Masking
from zoo.models._family import EncoderOutput, Model

NAMES = (*KINDS, *BASELINES)
MODES = ("export eval", "export train", "compile eval", "compile train")
# Every family is traced in every way in `make test-all`; those with the most wiring of their own in `make test` too,
# exported as they are used, and by the compiler in one mode each; the last, which takes no time, in all.
QUICK = {
    "wav2vec2_base_960": ("export eval", "compile eval"),
    "wavlm_large": ("export eval", "compile train"),
    "tera": ("export eval", "compile train"),
    "mel": MODES,
}
QUICK_ONNX = ("wavlm_large", "tera")

# One frame is a special case to the tracer, so graphs begin at two.
DYNAMIC = (
    {0: torch.export.Dim("batch", min=1, max=1024), 1: torch.export.Dim("samples", min=720, max=1 << 22)},
    {0: torch.export.Dim("batch", min=1, max=1024)},
)

Batch = tuple[Tensor, Tensor]


def batches(model: Model) -> list[Batch]:
    """The batch that is traced, and others of another size and length, the shortest as short as can be."""
    torch.manual_seed(2)
    shapes = ([4000, 3000, 1500], [7000, model.min_samples, 3333, 719, 6999], [2000])
    return [(torch.randn(len(n), max(n)) * 0.1, torch.tensor(n)) for n in shapes]


def check(model: Model, got: EncoderOutput, want: EncoderOutput) -> None:
    # The traced graph takes its statistics under a mask, eager utterance by utterance: two roundings apart.
    tolerance = TOLERANCES["traced" if model.num_layers else "traced features"]
    assert got.lengths.tolist() == want.lengths.tolist() and len(got.hidden_states) == len(want.hidden_states)
    for a, b in zip(got.hidden_states, want.hidden_states):
        assert tolerance.excess(a.detach().numpy(), b.detach().numpy()) <= 1


def export(model: Model) -> Callable[[Tensor, Tensor], EncoderOutput]:
    return torch.export.export(model, batches(model)[0], dynamic_shapes=DYNAMIC).module()


def compile_(model: Model) -> Callable[[Tensor, Tensor], EncoderOutput]:
    torch.compiler.reset()
    return torch.compile(model, fullgraph=True, dynamic=True, backend="eager")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "mode"),
    [pytest.param(n, m, marks=() if m in QUICK.get(n, ()) else pytest.mark.slow) for n in NAMES for m in MODES],
)
def test_one_graph_for_any_batch_and_length(name: str, mode: str) -> None:
    trace, training = export if mode.startswith("export") else compile_, mode.endswith("train")
    model = tiny(name).train(training)
    traced = trace(model)
    with torch.set_grad_enabled(training):
        for waveforms, lengths in batches(model):
            check(model, traced(waveforms, lengths), model(waveforms, lengths))
    if training and trace is compile_ and any(True for _ in model.parameters()):
        found = []
        for forward in (traced, model):
            model.zero_grad()
            sum(state.square().mean() for state in forward(*batches(model)[0]).hidden_states).backward()
            found.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
        assert found[0].keys() == found[1].keys()
        for key, gradient in found[1].items():
            torch.testing.assert_close(found[0][key], gradient, rtol=1e-3, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_the_randomness_of_training_is_part_of_the_graph() -> None:
    model = tiny("wavlm_base", dropout=0.1, layerdrop=0.3).train()
    model.masking = Masking(time_probability=0.5, time_span=3, channel_probability=0.2, channel_span=4)
    traced = compile_(model)
    batch = batches(model)[0]
    drawn = [traced(*batch).hidden_states[-1] for _ in range(2)]
    assert all(torch.isfinite(x).all() for x in drawn) and not torch.equal(*drawn)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_compiler_itself() -> None:
    """The other tests stop before code is generated; this one runs what is generated."""
    model = tiny("wavlm_base")
    torch.compiler.reset()
    traced = torch.compile(model, fullgraph=True, dynamic=True)
    with torch.no_grad():
        for waveforms, lengths in batches(model)[:2]:
            check(model, traced(waveforms, lengths), model(waveforms, lengths))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [n if n in QUICK_ONNX else pytest.param(n, marks=pytest.mark.slow) for n in NAMES])
def test_onnx(name: str, tmp_path: Path) -> None:
    import onnxruntime

    model = tiny(name)
    program = torch.onnx.export(model, batches(model)[0], dynamo=True, dynamic_shapes=DYNAMIC, verbose=False)
    program.save(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    for waveforms, lengths in batches(model):
        found = session.run(None, {"waveforms": waveforms.numpy(), "lengths": lengths.numpy()})
        *states, frames = (torch.from_numpy(np.asarray(value)) for value in found)
        with torch.no_grad():
            check(model, EncoderOutput(tuple(states), frames), model(waveforms, lengths))
    # The exporter's optimiser takes what is added to a silent frame's energy for nothing, if it can.
    *states, _ = session.run(None, {"waveforms": np.zeros((1, 3000), np.float32), "lengths": np.array([3000])})
    assert all(np.isfinite(state).all() for state in states)
