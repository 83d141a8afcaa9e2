"""What `--inspect` and `--dry-run` say, without reading a tensor."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import zoo
from tests.test_conversion import DATA, FACTS, checkpoint
from zoo import convert
from zoo.converters._inspection import same_architecture


def inspect(path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert convert.main(["--inspect", "--json", str(path)]) == 0
    record: dict[str, Any] = json.loads(capsys.readouterr().out)
    return record


@pytest.mark.parametrize("name", sorted(FACTS))
def test_every_genuine_checkpoint(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(self: object) -> None:
        raise RuntimeError("a tensor was read")

    for method in ("load", "pieces"):
        monkeypatch.setattr(f"zoo.converters._unpickle.LazyTensor.{method}", load)
    record = inspect(DATA / name, capsys)
    assert record["family"] == FACTS[name]["family"]
    assert record["unknown_config"] == []  # the toolkits' own fields are all known
    assert record["dtypes"] == (["float16"] if name == "fp16.pt" else ["float32"])
    if (DATA / name).is_file():
        assert record["sha256"] == hashlib.sha256((DATA / name).read_bytes()).hexdigest()
        assert "torch._utils._rebuild_tensor_v2" in record["classes"]
    assert convert.main(["--inspect", str(DATA / name)]) == 0
    text = capsys.readouterr().out
    assert all(f"{key}:" in text for key in record)


@pytest.mark.parametrize(
    ("name", "state"),
    [
        (
            "e0_namespace_legacy.pt",
            {"optimizer": ["last_optimizer_state"], "steps": {"optimizer_history.num_updates": 1}},
        ),
        (
            "data2vec.pt",
            {
                "optimizer": ["last_optimizer_state"],
                "ema": ["model._ema"],
                "steps": {"optimizer_history.num_updates": 0},
            },
        ),
        ("distilhubert.pt", {"optimizer": ["Optimizer"], "steps": {"Step": 200000}}),
        ("wavlm.pt", {}),
        ("hf/base_safetensors", {}),
    ],
)
def test_training_state(name: str, state: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect(DATA / name, capsys)["training_state"] == state


def test_training_state_of_a_lightning_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = torch.load(DATA / "torchaudio_wavlm.pt", weights_only=True)
    trainer = {"epoch": 3, "global_step": 700, "optimizer_states": [{"state": {}}], "lr_schedulers": [{"base": 1}]}
    torch.save({**file, **trainer}, tmp_path / "source.ckpt")
    assert inspect(tmp_path / "source.ckpt", capsys)["training_state"] == {
        "optimizer": ["optimizer_states"],
        "scheduler": ["lr_schedulers"],
        "steps": {"global_step": 700, "epoch": 3},
    }


def test_unknown_fields_are_kept_and_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = checkpoint(tmp_path / "source.pt", model={"colour": "red", "mask_other": 3}, task={"shade": 1})
    assert inspect(source, capsys)["unknown_config"] == ["cfg.model.colour"]
    assert convert.main([str(source), "-o", str(tmp_path / "out.safetensors")]) == 0
    assert "unknown_config: cfg.model.colour\n" in capsys.readouterr().out
    kept = zoo.load(tmp_path / "out.safetensors").provenance["config"]
    assert (kept["model"]["colour"], kept["task"]["shade"]) == ("red", 1)


def test_architecture_is_told_by_the_names_that_have_it() -> None:
    base: Any = zoo.info("wavlm_base").config
    names = same_architecture(replace(base, dropout=0.3, normalize_eps=1e-7, padding_rule="length"))
    assert {"wavlm_base", "wavlm_base_plus", "wavlm_base_sv"} <= set(names) and "wavlm_large" not in names
    assert same_architecture(replace(base, num_layers=11)) == []


def test_dry_run_shows_source_zoo_and_target(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = str(DATA / "data2vec.pt")
    assert convert.main(["--dry-run", source]) == 0
    assert "_ema.layers.0.fc1.bias dropped: moving average of the weights" in capsys.readouterr().out
    assert convert.main(["--dry-run", str(DATA / "e2_unresolved.pt"), "--to", "torchaudio"]) == 0
    shown = capsys.readouterr().out
    assert (
        "layer_norm.bias -> feature_projection.layer_norm.bias -> encoder.feature_projection.layer_norm.bias [8]"
        in shown
    )
    assert "heads.label_embs_concat dropped: torchaudio's model has no such head\n" in shown
