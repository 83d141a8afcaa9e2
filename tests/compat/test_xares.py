"""X-ARES's encoder, by what xares 0.1.3 checks and asks for; scripts/live_audio_benchmarks.py asks xares itself."""

from __future__ import annotations

import importlib
from math import ceil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import zoo
from tests.families import BASELINES, KINDS, tiny
from zoo.compat import xares
from zoo.errors import InputError

pytestmark = pytest.mark.usefixtures("one_thread")
ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "examples" / "hubert_tiny.pt"
PAGE = (ROOT / "docs" / "benchmark.md").read_text()


@pytest.mark.parametrize("name", [*KINDS, *BASELINES])
def test_what_the_checker_asks_for(name: str, tmp_path: Path) -> None:
    """`check_audio_encoder`, and the frames that tasks with labels in seconds count on."""
    zoo.save(tiny(name), tmp_path / "model.safetensors")
    encoder = xares.Encoder(name=str(tmp_path / "model.safetensors"))
    assert type(encoder).__name__.endswith("Encoder") and isinstance(encoder, nn.Module)
    assert encoder.sampling_rate == 16_000
    for samples in (50_000, 160_000):
        with torch.inference_mode():
            found = encoder(torch.randn(2, samples))
        assert found.dim() == 3 and len(found) == 2 and found.shape[2] == encoder.output_dim
        assert found.dtype == torch.float32 and found.isfinite().all()
        # DESED and MAESTRO make so many labels, and cut or fill them up to the frames.
        labels = ceil(samples / encoder.sampling_rate / (encoder.hop_size_in_ms / 1000))
        assert abs(labels - found.shape[1]) <= 2


def named(module: Any) -> type:
    """As `xares.utils.attr_from_py_path` finds the class of a file."""
    (name,) = [name for name in dir(module) if name.endswith("Encoder")]
    return getattr(module, name)  # type: ignore[no-any-return]


def test_the_file_of_the_page_is_one_that_the_runner_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = PAGE.index("# wavlm_encoder.py\n")
    (tmp_path / "wavlm_encoder.py").write_text(PAGE[start : PAGE.index("```", start)])
    monkeypatch.syspath_prepend(str(tmp_path))
    asked = []

    def offline(name: str, **options: Any) -> nn.Module:
        asked.append((name, options))
        return tiny("wavlm_base")

    monkeypatch.setattr(zoo, "load", offline)
    cls = named(importlib.import_module("wavlm_encoder"))
    encoder = cls()
    assert cls.__name__ == "WavlmBaseEncoder" and asked == [("wavlm_base", {"padding": "exact"})]
    audio = torch.randn(1, 8000)
    expected = torch.stack(tiny("wavlm_base").eval()(audio).hidden_states).shape[1:]
    assert encoder(audio).shape == expected
    assert named(xares) is xares.Encoder  # zoo/compat/xares.py is such a file itself
    xares.Encoder()
    assert asked[1:] == [("hubert_base", {"padding": "exact"})]


def test_values_are_those_of_the_model() -> None:
    class SumEncoder(xares.Encoder):
        options = {"name": str(TINY), "layer": [0, -1], "combine": "weights", "weights": [0.5, 2]}  # noqa: RUF012

    audio = torch.randn(2, 9000)
    with torch.no_grad():
        states = zoo.load(TINY)(audio).hidden_states
    torch.testing.assert_close(SumEncoder()(audio), 0.5 * states[0] + 2 * states[-1], rtol=0, atol=1e-5)
    last = SumEncoder(layer=-1, combine="concatenate", weights=None)  # an instance's options go before the class's
    torch.testing.assert_close(last(audio[0]), states[-1][:1], rtol=0, atol=1e-5)


def test_long_audio_is_cut_and_short_audio_filled_up() -> None:
    encoder = xares.Encoder(name=str(TINY), chunk_s=2)
    sizes: list[int] = []
    encoder.model.model.register_forward_pre_hook(lambda module, inputs: sizes.append(inputs[0].numel()))
    assert encoder(torch.randn(1, 80_000)).shape[1] == zoo.load(TINY).frame_count(80_000)
    assert max(sizes) == 32_000
    assert encoder(torch.randn(2, 100)).shape[1] == 1


def test_what_is_refused() -> None:
    with pytest.raises(InputError, match="the option 'layers' was given; known are name, layer"):
        xares.Encoder(layers=[1])
    with pytest.raises(InputError, match=r"none empty; found torch.int16 \(1, 800\)"):
        xares.Encoder(name="fbank")(torch.zeros(1, 800, dtype=torch.int16))
