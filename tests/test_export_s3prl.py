"""What is written for s3prl, in its four layouts: the keys of genuine files, and every tensor bit for bit.

That s3prl loads such files and computes the same is shown by scripts/live_export.py (docs/conversion.md).
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import zoo
from tests.exporting import DATA, changed, flat, original, same, tensors, write
from tests.families import tiny
from tests.golden import spectral as golden
from tests.trees import read
from zoo import convert
from zoo.converters import open_conversion
from zoo.errors import CheckpointError

CONVERTED = {  # made by s3prl's converter -> from fairseq's
    "converted_wav2vec2.pt": "e0_namespace_legacy.pt",
    "converted_conformer.pt": "conformer_relative.pt",
    "converted_hubert.pt": "e3_resolved.pt",
    "converted_data2vec.pt": "data2vec.pt",
}
FILES = (
    *CONVERTED, "wavlm.pt", "unispeech_sat.pt", "distilhubert.pt", "s3prl/tera.ckpt", "s3prl/tera_fbank.ckpt",
    "s3prl/audio_albert.ckpt",
)  # fmt: skip
STATES = ("model_weight", "model", "Distiller", "Transformer")


def state(content: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The tensors of a file in any of the layouts, TERA's head below `heads`."""
    (own,) = (content[key] for key in STATES if key in content)
    return flat(own) | {f"heads.{key}": value for key, value in content.get("SpecHead", {}).items()}


@pytest.mark.parametrize("name", FILES)
def test_genuine_files_come_back_bit_for_bit(name: str, tmp_path: Path) -> None:
    native = tmp_path / "native.safetensors"
    write(DATA / name, native, "zoo")
    found = write(native, tmp_path / "back.pt", "s3prl")
    # data2vec's teacher, which s3prl deletes, is left behind.
    same(state(found), {key: value for key, value in original(DATA / name).items() if not key.startswith("_ema.")})
    assert not changed(native, tmp_path / "back.pt")


@pytest.mark.parametrize(("converted", "source"), CONVERTED.items())
def test_what_is_written_of_fairseqs_files_is_what_s3prl_makes_of_them(
    converted: str, source: str, tmp_path: Path
) -> None:
    found = write(DATA / source, tmp_path / "out.pt", "s3prl")
    want = torch.load(DATA / converted, weights_only=True)
    teacher = want["model_weight"].pop("_ema", None)
    assert found["model_weight"].pop("_ema", None) == (None if teacher is None else {})
    same(found["model_weight"], want["model_weight"])
    assert found.get("dictionaries_symbols") == want.get("dictionaries_symbols")
    assert not changed(tmp_path / "out.pt", DATA / converted)


@pytest.mark.parametrize("name", golden.model_names())
def test_tera_and_its_siblings_come_back(name: str, tmp_path: Path) -> None:
    """With every key that s3prl registers twice, and every copy of a shared block."""
    source = golden.checkpoint(golden.read(name), tmp_path)
    found = write(source, tmp_path / "out.pt", "s3prl")
    want = read(source)
    config = want["Config" if "transformer" in want["Config"] else "Upstream_Config"]
    got = state(found)
    if config["transformer"]["share_layer"]:  # of which the last copy counts
        last = {key: value for key, value in want["Transformer"].items() if key.startswith("encoder.layer.2.")}
        for key, value in last.items():
            for layer in "01":
                want["Transformer"][key.replace("layer.2.", f"layer.{layer}.")] = value
    same(got, state(want))
    assert not changed(source, tmp_path / "out.pt")
    audio = config["audio"]
    assert found["Config"]["audio"].get("target") == audio.get("target")
    # Without the original configuration, the head's width tells what it predicts.
    model = zoo.load(source, heads=True)
    model.provenance = {}
    zoo.save(model, tmp_path / "model.safetensors")
    target = write(tmp_path / "model.safetensors", tmp_path / "new.pt", "s3prl")["Config"]["audio"].get("target")
    assert (target or {}).get("feat_type") == (audio.get("target") or {}).get("feat_type")


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("tera", {"features": "linear", "frame_length_ms": 20.0, "cmvn": False, "chunk_frames": 0}),
        ("tera", {"features": "fbank", "level_db": None, "delta_order": 2, "delta_window": 7, "mel_bands": 40}),
        ("tera", {"features": "mfcc", "level_db": None, "mel_bands": 30, "cepstra": 20, "frame_shift_ms": 5.0}),
        ("tera", {"features": "spectrogram", "level_db": None, "mel_bands": 23}),
        ("tera", {"norm_first": True, "activation": "swish", "norm_eps": 1e-5, "sample_rate": 8000}),
        ("audio_albert", {"norm_first": True, "delta_order": 1}),
    ],
)
def test_every_front_end_can_be_said(name: str, changes: dict[str, Any], tmp_path: Path) -> None:
    small = {"width": 16, "ffn_width": 16, "num_heads": 2, "num_layers": 2}
    zoo.save(zoo.build(name, **small, **changes), tmp_path / "model.safetensors")
    write(tmp_path / "model.safetensors", tmp_path / "out.pt", "s3prl")
    assert not changed(tmp_path / "model.safetensors", tmp_path / "out.pt")
    same(tensors(tmp_path / "out.pt"), tensors(tmp_path / "model.safetensors"))


@pytest.mark.parametrize(
    ("name", "made_up", "left"),
    [
        ("base_safetensors", {"final_proj", "project_q"}, set()),
        ("pretraining_prefix", set(), set()),
        ("ctc", {"final_proj"}, {"ctc_proj"}),
        ("data2vec_ctc", set(), {"ctc_proj"}),
        ("conformer_ctc", {"final_proj", "project_q"}, {"ctc_proj"}),
        ("sharded", set(), set()),
        ("xvector", set(), {"classifier", "feature_extractor", "objective", "projector", "tdnn"}),
        ("bin", set(), {"classifier", "layer_weights", "projector"}),
        ("distilhubert", set(), {"masked_spec_embed"}),
    ],
)
def test_hugging_faces_models_arrive_bit_for_bit(
    name: str, made_up: set[str], left: set[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = DATA / "hf" / name, tmp_path / "out.pt"
    write(source, out, "s3prl")
    said = capsys.readouterr().out
    want, got = tensors(source), tensors(out)
    with open_conversion(out) as conversion:  # no mask embedding stands in DistilHuBERT's file
        got = {key: value for key, value in got.items() if key not in conversion.assignment.made_up}

    def top(key: str) -> str:
        return key.removeprefix("heads.").split(".")[0]

    assert {top(key) for key in got.keys() - want.keys()} == made_up
    assert {top(key) for key in want.keys() - got.keys()} == left
    assert all(f"{key}: " in said for key in want.keys() - got.keys())
    assert all(key.removeprefix("heads.") in said for key in got.keys() - want.keys())
    both = got.keys() & want.keys()
    same({key: got[key] for key in both}, {key: want[key] for key in both})
    assert changed(source, out) <= {"normalize_eps", "padding_rule", "attention_mask", "symbols"}


def test_a_distilled_model_without_predictions_predicts_its_own_layers(tmp_path: Path) -> None:
    """So that s3prl, which always predicts, needs no tensors for it."""
    found = write(DATA / "hf" / "distilhubert", tmp_path / "out.pt", "s3prl")["Config"]["distiller"]
    assert (found["task_emb_type"], found["out_layer_type"]) == ("self-hidden", "self-hidden")
    assert len(found["pred_layer_id"]) == found["n_tasks"] == found["encoder_layers"] + 1
    before = read(DATA / "distilhubert.pt")["Config"]
    assert write(DATA / "distilhubert.pt", tmp_path / "same.pt", "s3prl")["Config"] == before | {
        "distiller": before["distiller"] | {"out_layer_inter_dim": 16}  # was -1, which means the width
    }


def test_half_precision_is_kept(tmp_path: Path) -> None:
    found = write(DATA / "fp16.pt", tmp_path / "out.pt", "s3prl")
    assert {value.dtype for value in found["model_weight"].values()} == {torch.float16}


def test_labels_without_a_dictionary_get_numbers(tmp_path: Path) -> None:
    found = write(DATA / "ctc_hubert.pt", tmp_path / "out.pt", "s3prl")
    (symbols,) = found["dictionaries_symbols"]
    assert len(symbols) == len(found["model_weight"]["label_embs_concat"]) == 12 and symbols[-1] == "7"
    assert write(DATA / "hf" / "ctc", tmp_path / "none.pt", "s3prl")["dictionaries_symbols"] == [None]


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("mms_1b_all", {}, "s3prl has no wav2vec2 models whose adapter_width is 16"),
        ("hubert_base", {"pos_conv_norm": "batch"}, "s3prl has no hubert models whose pos_conv_norm is 'batch'"),
        ("wavlm_base", {"pos_conv_norm": "batch"}, "s3prl has no wavlm models whose pos_conv_norm is 'batch'"),
        ("unispeech_sat_base", {"sample_rate": 8000}, "s3prl has no unispeech_sat models whose sample_rate is 8000"),
        ("distilhubert_base", {"conv_bias": True}, "s3prl has no distilhubert models whose conv_bias is True"),
        ("unispeech_large_en", {}, "s3prl has no unispeech models; such a model can be written as "),
        ("wavlm_base", {"conv_layers": [[32, 10, 5]]}, "no projection from 32 convolution channels to a width of 32"),
    ],
)
def test_what_s3prl_does_not_have_is_refused(
    name: str, changes: dict[str, Any], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    zoo.save(tiny(name, **changes), tmp_path / "model.safetensors")
    assert convert.main([str(tmp_path / "model.safetensors"), "-o", str(tmp_path / "out.pt"), "--to", "s3prl"]) == 1
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1


def test_a_converted_file_must_say_how_waveforms_are_treated(tmp_path: Path) -> None:
    path = shutil.copy(DATA / "converted_hubert.pt", tmp_path / "model.pt")
    content = torch.load(path, weights_only=True)
    assert zoo.load(path).provenance["dictionaries"] == content["dictionaries_symbols"]
    torch.save({**content, "task_cfg": {**content["task_cfg"], "normalize": True}}, path)
    assert zoo.load(path).config.normalize
    del content["task_cfg"]
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="no task_cfg, which says whether waveforms are normalised"):
        zoo.load(path)
