"""The code of docs/migrating.md that uses the zoo runs, and does what the page says; tiny checkpoints stand in."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import zoo
from zoo.compat import s3prl

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data"
PAGE = (ROOT / "docs" / "migrating.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
AFTER = [block for block in BLOCKS if block.startswith("# after")]


def test_every_section_has_code_before_and_after() -> None:
    sections = PAGE.split("\n## ")[1:]
    assert len(sections) == 6
    for section in sections:
        assert "```python\n# after" in section, section.splitlines()[0]
    assert len(BLOCKS) == len(AFTER) + sum(block.startswith("# before") for block in BLOCKS)


@pytest.fixture
def at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """What the page takes for granted: the files beside the program, the names in the cache, some speech."""
    deep = zoo.load(DATA / "e3_resolved.pt", heads=True)
    config = deep.config.from_dict({**deep.config.to_dict(), "num_layers": 12})
    model = type(deep)(config)
    model.heads = deep.heads
    zoo.save(model, tmp_path / "hubert_base.pt")
    shutil.copy(tmp_path / "hubert_base.pt", tmp_path / "hubert_base_ls960.pt")
    shutil.copytree(DATA / "hf" / "ctc", tmp_path / "path" / "to" / "wav2vec2-ctc")
    monkeypatch.chdir(tmp_path)
    originals = {"hubert_base": "hubert_base.pt", "hubert_large_ll60k": "path/to/wav2vec2-ctc"}
    originals["hf:facebook/hubert-base-ls960"] = "path/to/wav2vec2-ctc"
    load = zoo.load

    def from_cache(name: Any, **options: Any) -> Any:
        return load(originals.get(str(name), name), **options)

    monkeypatch.setattr(zoo, "load", from_cache)
    monkeypatch.setattr(s3prl, "load_named", lambda name, heads, options: from_cache(name, heads=heads))
    lengths = torch.tensor([16000, 9000])
    waveforms = 0.1 * torch.randn(2, 16000)
    arrays = [waveform[:n] for waveform, n in zip(waveforms, lengths)]
    yield {"torch": torch, "waveforms": waveforms, "lengths": lengths, "arrays": arrays}
    for name in [name for name in sys.modules if name.partition(".")[0] == "s3prl"]:
        del sys.modules[name]


def run(block: str, names: dict[str, Any]) -> None:
    exec(compile(block, "docs/migrating.md", "exec"), names)


def one(part: str) -> str:
    """The block that says this."""
    (block,) = [block for block in AFTER if part in block]
    return block


@pytest.mark.parametrize("block", AFTER, ids=[str(i) for i in range(len(AFTER))])
def test_the_code_runs(block: str, at_hand: dict[str, Any]) -> None:
    run(block, at_hand)
    found = [at_hand[name] for name in ("states", "features", "x", "logits", "v1", "v2", "out") if name in at_hand]
    assert found
    for value in found:
        tensors = value.hidden_states if isinstance(value, zoo.EncoderOutput) else value
        assert all(tensor.isfinite().all() for tensor in tensors)


def test_frames_are_counted_as_the_page_says(at_hand: dict[str, Any]) -> None:
    run(one("the same classes"), at_hand)
    run(one("the zoo's own interface"), at_hand)
    assert at_hand["frames"].tolist() == [50, 29]
    assert at_hand["out"].lengths.tolist() == [49, 27]
    layer, own = at_hand["states"][9], at_hand["out"].hidden_states[0]
    torch.testing.assert_close(layer[0, :49], own[0], rtol=1.3e-6, atol=1e-5)
    assert torch.equal(layer[:, 49], layer[:, 48])  # repeated


def test_voice_conversion_gets_layer_9_through_the_projection_and_layer_12(at_hand: dict[str, Any]) -> None:
    run(one("v1, v2"), at_hand)
    model = zoo.load("hubert_base.pt", heads=True)
    states = model(at_hand["waveforms"]).hidden_states
    projection = torch.nn.Linear(16, 8)
    source = torch.load(DATA / "converted_hubert.pt", weights_only=True)["model_weight"]  # e3_resolved.pt's tensors
    projection.load_state_dict({name: source[f"final_proj.{name}"] for name in ("weight", "bias")})
    torch.testing.assert_close(at_hand["v1"], projection(states[9]))
    torch.testing.assert_close(at_hand["v2"], states[12])


def test_contentvec_for_transformers_is_read_with_its_projection(tmp_path: Path) -> None:
    """A folder like lengyue233/content-vec-best: a class of its own, `final_proj` beside a base model, no processor."""
    folder = DATA / "hf" / "bin_sharded"
    weights: dict[str, Tensor] = {}
    for path in folder.glob("*.bin"):
        weights |= torch.load(path, weights_only=True)
    weights |= {"final_proj.weight": torch.randn(8, 16), "final_proj.bias": torch.randn(8)}
    torch.save(weights, tmp_path / "pytorch_model.bin")
    config = json.loads((folder / "config.json").read_text()) | {"architectures": ["HubertModelWithFinalProj"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = zoo.load(tmp_path, heads=True)
    assert torch.equal(model.heads.final_proj.weight, weights["final_proj.weight"])
    assert torch.equal(model.heads.final_proj.bias, weights["final_proj.bias"])
    waveforms = torch.randn(1, 4000)
    assert torch.equal(model(waveforms).hidden_states[-1], zoo.load(folder)(waveforms).hidden_states[-1])
