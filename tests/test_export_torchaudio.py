"""Models written for torchaudio: its own files come back as they were, others keep their tensors and configuration."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import zoo
from tests.test_conversion import DATA, FACTS
from zoo import convert
from zoo.converters import open_conversion
from zoo.converters.torchaudio import DIALECT
from zoo.errors import CheckpointError

OWN = ["torchaudio_wav2vec2.pt", "torchaudio_wavlm.pt"]
FAMILIES = {"wav2vec2", "hubert", "unispeech", "unispeech_sat", "wavlm"}
WITHOUT_PLACE = {"hubert_batch_norm.pt", "hf/bin_sharded", "mms.pt", "hf/mms_ctc"}
HELD = sorted(name for name in FACTS if FACTS[name]["family"] in FAMILIES and name not in WITHOUT_PLACE)


def run(source: Path, output: Path, *arguments: str) -> Path:
    assert convert.main([str(source), "-o", str(output), *arguments]) == 0
    return output


def there_and_back(source: Path, folder: Path) -> dict[str, Any]:
    native = run(source, folder / "native.safetensors")
    return torch.load(run(native, folder / "again.pt", "--to", "torchaudio"), weights_only=True)


def same_bits(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        first[key].dtype == second[key].dtype and torch.equal(first[key], second[key]) for key in first
    )


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_torchaudios_files_come_back_as_they_were(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    file = torch.load(DATA / name, weights_only=True)
    file["state_dict"] = {key: tensor.to(dtype) for key, tensor in file["state_dict"].items()}
    torch.save(file, tmp_path / "source.pt")
    again = there_and_back(tmp_path / "source.pt", tmp_path)
    assert same_bits(again.pop("state_dict"), file.pop("state_dict"))
    assert again == {"labels": None, **file, "family": FACTS[name]["family"]}


def test_the_older_spelling_of_weight_norm(tmp_path: Path) -> None:
    """torchaudio's released files have it; both are read, and today's is written."""
    file = torch.load(DATA / OWN[0], weights_only=True)
    state = file["state_dict"]
    spelling = "encoder.transformer.pos_conv_embed.conv."
    older = {f"{spelling}parametrizations.weight.original{i}": f"{spelling}weight_{'gv'[i]}" for i in (0, 1)}
    torch.save({**file, "state_dict": {older.get(k, k): t for k, t in state.items()}}, tmp_path / "source.pt")
    assert same_bits(there_and_back(tmp_path / "source.pt", tmp_path)["state_dict"], dict(state))


@pytest.mark.parametrize("name", HELD)
def test_others_models_keep_tensors_and_configuration(name: str, tmp_path: Path) -> None:
    written = run(DATA / name, tmp_path / "written.pt", "--to", "torchaudio")
    with open_conversion(DATA / name) as first, open_conversion(written) as second:
        before, after = first.checkpoint(), second.checkpoint()
        said = {f: v for f, v in before.config.to_dict().items() if f not in DIALECT.unsaid}
        assert said == {f: v for f, v in after.config.to_dict().items() if f not in DIALECT.unsaid}
        heads = {name for name in before.tensors if name.startswith("heads.")}
        kept = before.tensors.keys() - heads - {"masked_spec_embed"}
        if before.shape("heads.ctc_proj.bias"):
            kept |= {"heads.ctc_proj.weight", "heads.ctc_proj.bias"}
        assert kept == after.tensors.keys() - {"masked_spec_embed"}
        for key in kept:
            one, two = before.tensors[key].load(), after.tensors[key].load()
            assert one.dtype == two.dtype and torch.equal(one, two), key


def test_what_is_left_behind_is_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--to", "torchaudio", "--json"]
    run(DATA / "e1_dictconfig.pt", tmp_path / "out.pt", *arguments)
    record = json.loads(capsys.readouterr().out)
    assert record["dropped"].pop("masked_spec_embed") == "torchaudio's model has no mask embedding"
    assert set(record["dropped"].values()) == {"torchaudio's model has no such head"}
    assert {name.split(".")[1] for name in record["dropped"]} == {"quantizer", "project_q", "final_proj"}
    assert convert.main([str(DATA / "wavlm.pt"), "--dry-run", *arguments]) == 0
    pairs = {pair["zoo"]: pair for pair in json.loads(capsys.readouterr().out)["tensors"]}
    assert pairs["encoder.layers.0.attention.k_proj.weight"] == {
        "source": "encoder.layers.0.self_attn.k_proj.weight",
        "zoo": "encoder.layers.0.attention.k_proj.weight",
        "target": "encoder.transformer.layers.0.attention.attention.in_proj_weight[1]",
    }


def test_projections_are_stacked_in_torchs_order(tmp_path: Path) -> None:
    written = torch.load(run(DATA / "wavlm.pt", tmp_path / "out.pt", "--to", "torchaudio"), weights_only=True)
    model = zoo.load(DATA / "wavlm.pt")
    for kind in ("weight", "bias"):
        stack = written["state_dict"][f"encoder.transformer.layers.0.attention.attention.in_proj_{kind}"]
        parts = [model.state_dict()[f"encoder.layers.0.attention.{part}_proj.{kind}"] for part in "qkv"]
        assert torch.equal(stack, torch.cat(parts))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("hubert_batch_norm.pt", "torchaudio has no hubert models whose pos_conv_norm is 'batch'"),
        ("mms.pt", "torchaudio has no wav2vec2 models whose adapter_width is 4"),
        *((name, "torchaudio has no data2vec models") for name in ("data2vec.pt", "data2vec_ctc.pt")),
        ("conformer_relative.pt", "torchaudio has no wav2vec2_conformer models"),
        ("distilhubert.pt", "torchaudio has no distilhubert models"),
        ("s3prl/tera.ckpt", "torchaudio has no tera models"),
        ("wav2vec_u/plain.pt", "torchaudio has no wav2vec_u models"),
    ],
)
def test_models_that_torchaudio_does_not_have(
    name: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert convert.main([str(DATA / name), "-o", str(tmp_path / "out.pt"), "--to", "torchaudio"]) == 1
    assert words in capsys.readouterr().err and not [*tmp_path.iterdir()]


def test_a_head_without_a_bias_is_left_behind(tmp_path: Path) -> None:
    """torchaudio's head is a linear layer with one, and nothing is made up for it."""
    with open_conversion(DATA / "ctc_hubert.pt") as conversion:
        whole = conversion.checkpoint()
        tensors = {name: tensor for name, tensor in whole.tensors.items() if name != "heads.ctc_proj.bias"}
        made = DIALECT.write(dataclasses.replace(whole, tensors=tensors))
    assert made.root["arguments"]["aux_num_out"] is None
    assert "heads.ctc_proj.weight" in made.dropped and not any(k.startswith("aux") for k in made.root["state_dict"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"factory": "wav2vec2_base"}, "its factory is 'wav2vec2_base'; supported are wav2vec2_model, wavlm_model"),
        ({"factory": ["wav2vec2_model"]}, "its factory is"),
        ({"family": "wavlm"}, "its family is 'wavlm', of which wav2vec2_model builds none"),
        ({"family": 3}, "its family is 3"),
        ({"extractor_mode": "batch_norm"}, "extractor_mode is 'batch_norm'; expected one of group_norm, layer_norm"),
        ({"encoder_num_heads": None}, "'num_heads' cannot be None"),
        ({"encoder_num_layers": 3}, "parameters that nothing fills: encoder.layers.2"),
        ({"extractor_conv_layer_config": [[8, 10]]}, "expected a sum of lists of"),
        ({"aux_num_out": 29}, "aux_num_out is 29, but aux.weight has 12 outputs"),
        ({"aux_num_out": None}, "aux_num_out is None, but aux.weight has 12 outputs"),
        ({"normalize": "yes"}, "'normalize' cannot be 'yes'"),
        ({"state_dict": {"aux.weight": 3}}, "something else than a tensor under 'aux.weight'"),
        (
            {
                "state_dict": {
                    "x.attention.attention.in_proj_bias": torch.ones(3),
                    "x.attention.attention.in_proj_bias[0]": torch.ones(1),
                }
            },
            "holds 'x.attention.attention.in_proj_bias[0]' twice",
        ),
    ],
)
def test_files_that_cannot_be_right(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    file = torch.load(DATA / OWN[0], weights_only=True)
    (name,) = change
    place = file["arguments"] if name in file["arguments"] else file
    place.update(change)
    torch.save(file, tmp_path / "source.pt")
    with pytest.raises(CheckpointError, match=words.replace("[", r"\[")):
        zoo.load(tmp_path / "source.pt")


def test_an_argument_is_missing(tmp_path: Path) -> None:
    file = torch.load(DATA / OWN[0], weights_only=True)
    del file["arguments"]["encoder_dropout"]
    torch.save(file, tmp_path / "source.pt")
    with pytest.raises(CheckpointError, match="lack encoder_dropout, which wav2vec2_model insists on"):
        zoo.load(tmp_path / "source.pt")
