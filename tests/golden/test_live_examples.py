"""The live twins without toolkits: what they draw the zoo builds and runs, and they allow no more than they say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings

from tests.golden import generator
from tests.golden.live.agreement import LEAST, NOISE, Measured, least_unit, own_noise
from tests.golden.live.examples import DRAWN, FAMILIES, Example
from zoo._registry import families


def test_every_family_is_drawn() -> None:
    assert families().keys() == set(FAMILIES)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(("toolkit", "family"), [(toolkit, f) for toolkit, drawn in DRAWN.items() for f in drawn])
def test_the_zoo_has_what_is_drawn(toolkit: str, family: str) -> None:
    @settings(
        max_examples=4,
        deadline=None,
        database=None,
        derandomize=True,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(DRAWN[toolkit][family])
    @torch.no_grad()
    def check(example: Example) -> None:
        assert example.config.family == family
        assert type(example.config).from_dict(example.config.to_dict()) == example.config
        model = families()[family].model(example.config).eval()
        if model.takes == "features":
            out = model([torch.ones(frames, example.config.input_dim) for frames in example.utterances])
            assert bool(out.logits.isfinite().all())
            return
        waves = [torch.from_numpy(generator.waveform(spec)) for spec in example.utterances]
        out = model(waves)
        assert out.lengths.tolist() == [model.frame_count(len(wave)) for wave in waves]
        assert int(out.lengths.min()) > 0

    check()


ARRAYS = {
    "single0/1": np.zeros((2, 3), np.float32),
    "grad/a.k_proj.bias/norm": np.float64(1e-9),
    "grad/a.k_proj.bias/slice": np.full(4, 1e-9, np.float32),
    "grad/a.q_proj.bias/norm": np.float64(0.5),
    "grad/a.q_proj.bias/slice": np.full(4, 0.25, np.float32),
}


def failures(stage: str, difference: float, noise: float, row: str = "tiny") -> list[str]:
    result = Measured(noise={"states": noise, "gradient/a": noise})
    result.check(stage, torch.full((3,), difference, dtype=torch.float64), np.zeros(3), row)
    return result.failures


def test_no_more_is_allowed_than_the_noise_demands() -> None:
    assert not failures("single0/1", 0.9e-5, 0.0) and failures("single0/1", 1.1e-5, 0.0)
    assert not failures("single0/1", 0.9 * NOISE * 1e-4, 1e-4) and failures("single0/1", 1.1 * NOISE * 1e-4, 1e-4)
    assert failures("single0/conv", 1.1e-5, 1e-4)  # that of the states is not that of other stages
    assert not failures("gradient/a/norm", 0.9 * NOISE * 1e-4, 1e-4, "gradient")
    assert failures("gradient/b", 1.1e-5, 1e-4, "gradient")


def test_noise_is_what_float32_is_off_by() -> None:
    exact = {name: value + 1e-3 for name, value in ARRAYS.items()}
    noise = own_noise(ARRAYS, exact, {})
    assert noise["states"] == pytest.approx(1e-3)
    # Of a key's bias in the unit of the query's, its own being nothing.
    assert noise["gradient/a.k_proj.bias"] == pytest.approx(1e-3 / 0.5)
    assert least_unit(ARRAYS) == 0.5 * LEAST[np.dtype(np.float32)]


def test_nothing_is_collected_unless_asked_for() -> None:
    folder = Path(__file__).parent / "live"
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", str(folder)]
    found = subprocess.run(command, capture_output=True, text=True, cwd=folder.parents[2])
    assert found.returncode == pytest.ExitCode.NO_TESTS_COLLECTED, found.stdout
    assert "no tests collected" in found.stdout and "test_live" not in found.stdout
