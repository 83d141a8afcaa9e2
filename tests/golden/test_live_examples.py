"""What the live twins draw are models that the zoo builds and runs; no toolkit is needed for this."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings

from tests.golden import generator
from tests.golden.live.examples import DRAWN, FAMILIES, Example
from zoo._registry import families


def test_every_family_is_drawn() -> None:
    assert families().keys() == set(FAMILIES)


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
