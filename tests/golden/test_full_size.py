"""Models of every released size give what the references gave: alone, in a padded batch, backward.

Those above 317 M parameters are collected where ZOO_HUGE is set in the environment.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import zoo
from tests.golden import full_size as golden
from tests.golden import generator, store, summary
from zoo.layers import transformer
from zoo.models._family import Model

UNIFORM = [-0.5443212985992432, -0.22138535976409912, 0.8318475484848022]
COARSE = [
    0.88922119140625,
    -0.422515869140625,
    -0.63323974609375,
    0.455657958984375,
    -0.50457763671875,
    0.206817626953125,
]
SWEEP = [0.9367016553878784, 0.8863973617553711, 0.8064353466033936, 0.7791095972061157, 0.7700157165527344]
LARGEST = 317_000_000  # parameters of what is compared by default
# Large ones of families that have a base one too; wav2vec2_large and unispeech_large, of 24 layers, are always run.
SLOW = {
    "data2vec2_large",
    "data2vec_large",
    "hf_wav2vec2_large",
    "hubert_large",
    "unispeech_sat_large",
    "wav2vec2_large_960",
    "wavlm_large",
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in golden.names()])
def test_case(name: str, record_differences) -> None:
    case = golden.read(name)
    model, names = golden.load(case)
    result = golden.compare(case, model, names)
    record_differences(f"full size {name}", result.largest)
    assert not result.failures, "\n".join(result.failures[:20])


def test_every_released_architecture_is_pinned() -> None:
    """By what a configuration says of the layers; baselines have no weights."""
    pinned = {}
    for path in golden.DATA.glob("*.json"):
        config = golden.conversion(golden.read(path.stem)).config
        pinned[golden.architecture(config)] = path.stem
    wanted = {
        golden.architecture(zoo.info(name).config): name
        for name in zoo.list_models()
        if 0 < zoo.info(name).parameters <= LARGEST
    }
    assert not {name for architecture, name in wanted.items() if architecture not in pinned}


@pytest.mark.parametrize("name", golden.names())
def test_what_was_recorded_is_healthy(name: str) -> None:
    """Or agreement would mean little: values neither vanish nor grow, attention is neither even nor on one frame."""
    facts = golden.read(name).facts
    assert all(0.02 < rms < 10 for rms in facts["health"]["stage_rms"])
    entropies = facts["health"]["attention_entropy"]
    assert all(0.1 < value < 1 for value in entropies) and (not entropies or np.mean(entropies) < 0.97)


# --- canaries ----------------------------------------------------------------------------------------------------


def no_last_norm(model: Model, patch: pytest.MonkeyPatch) -> None:
    """transformers 5 lists the last layer's output where 4.57 listed the encoder's, behind the norm."""
    patch.setattr(model.encoder.layer_norm, "forward", lambda x: x)


def layers_swapped(model: Model, patch: pytest.MonkeyPatch) -> None:
    layers = model.encoder.layers
    patch.setitem(model.encoder._modules, "layers", nn.ModuleList([*layers[:-2], layers[-1], layers[-2]]))


def other_heads(model: Model, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(model.encoder.layers[12].attention, "heads", 8)


def tanh_gelu(model: Model, patch: pytest.MonkeyPatch) -> None:
    class Functional:
        gelu = staticmethod(lambda x: F.gelu(x, approximate="tanh"))

        def __getattr__(self, name: str) -> object:
            return getattr(F, name)

    patch.setattr(transformer, "F", Functional())


def one_weight(model: Model, patch: pytest.MonkeyPatch) -> None:
    """One value of one matrix in the middle of the model, by as much as its usual size."""
    weight = model.encoder.layers[12].attention.v_proj.weight
    changed = weight.detach().clone()
    changed[3, 5] += 0.05
    patch.setitem(model.encoder.layers[12].attention.v_proj._parameters, "weight", nn.Parameter(changed))


CANARIES: dict[str, Callable[[Model, pytest.MonkeyPatch], None]] = {
    "no last norm": no_last_norm,
    "last layers swapped": layers_swapped,
    "heads of one layer": other_heads,
    "tanh GELU": tanh_gelu,
    "one weight": one_weight,
}


def test_planted_bugs_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a pre-norm model of 24 layers, each by the pinned states alone."""
    case = golden.read("hf_wav2vec2_large")
    model, names = golden.load(case)
    assert not golden.compare(case, model, names, backward=False).failures
    for bug, plant in CANARIES.items():
        with monkeypatch.context() as patch:
            plant(model, patch)
            failures = golden.compare(case, model, names, backward=False).failures
        assert failures, f"the pins do not notice: {bug}"
        if bug == "no last norm":  # and nothing else is blamed for it
            assert all(re.match(r"\w+/24/", failure) for failure in failures)


# --- what the pins are made of -----------------------------------------------------------------------------------


def test_a_sketch_is_as_large_as_what_it_stands_for() -> None:
    for shape in ((7,), (300, 768), (5, 4096), (1000, 1000)):
        ratios = []
        for seed in range(20):
            x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
            ratios.append(float(summary.sketch(x).norm() / x.norm()))
        assert min(ratios) > 0.4 and max(ratios) < 1.7 and abs(np.mean(ratios) - 1) < 0.2


def test_a_sketch_is_linear() -> None:
    a, b = torch.randn(2, 70, 768, dtype=torch.float64)
    torch.testing.assert_close(summary.sketch(a - b), summary.sketch(a) - summary.sketch(b))


def test_the_generator_gives_what_it_always_gave() -> None:
    """On every platform and in every version of NumPy; a change would make all recorded data worthless."""
    assert generator.uniform("key", 3).tolist() == UNIFORM
    assert generator.coarse("key", 6).tolist() == COARSE
    assert generator.sweep(5033, 5).tolist() == SWEEP
    assert (generator.coarse("key", 6) * 2**15 == np.round(generator.coarse("key", 6) * 2**15)).all()


def test_arrays_come_back_as_they_were(tmp_path) -> None:
    arrays = {
        "a/b": np.arange(6, dtype=np.float32).reshape(2, 3) / 7,
        "scalar": np.float64(1 / 3),
        "empty": np.zeros((0, 4), dtype=np.float32),
        "flags": np.array([True, False]),
        "count": np.array([-1, 2**40], dtype=np.int64),
    }
    store.write(tmp_path / "x.npz", arrays)
    again = store.read(tmp_path / "x.npz")
    assert list(again) == list(arrays)
    for name, value in arrays.items():
        assert again[name].dtype == np.asarray(value).dtype and np.array_equal(again[name], value)
    first = (tmp_path / "x.npz").read_bytes()
    store.write(tmp_path / "x.npz", again)
    assert (tmp_path / "x.npz").read_bytes() == first
