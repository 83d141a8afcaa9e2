"""What is written for fairseq: the keys of its own files, every tensor bit for bit, a configuration of plain data.

That fairseq loads such files and computes the same is shown by scripts/live_export.py (docs/conversion.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import zoo
from tests.exporting import DATA, changed, flat, original, same, tensors, write
from tests.families import STACK, tiny
from zoo import convert
from zoo.converters import open_conversion
from zoo.converters._fairseq_layout import conv_text
from zoo.converters._fields import parse_conv_layers
from zoo.models._family import Heads


def dialect(path: Path) -> str:
    with open_conversion(path) as conversion:
        return conversion.dialect


FILES = sorted(
    str(path.relative_to(DATA))
    for path in [*DATA.glob("*.pt"), *DATA.glob("wav2vec_u/*.pt")]
    if dialect(path) == "fairseq"
)
FOLDERS = (
    "base_safetensors", "bin_sharded", "conformer_ctc", "conformer_pretraining", "ctc", "data2vec_ctc", "mms_ctc",
    "pretraining_prefix",
)  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_fairseqs_files_come_back_bit_for_bit(name: str, tmp_path: Path) -> None:
    native = tmp_path / "native.safetensors"
    write(DATA / name, native, "zoo")
    found = write(native, tmp_path / "back.pt", "fairseq")
    want = original(DATA / name)
    got = flat(found["model"])
    for key, value in got.items():
        if "adapter_layer" in key:  # a stack of one
            assert value.shape[0] == 1
            got[key] = value[0]
    teacher = {key for key in want if key.startswith("_ema.")}  # which the zoo leaves behind; the encoder stands for it
    for key in teacher:
        want[key] = want["encoder." + key.removeprefix("_ema.")]
    same(got, want)
    assert not changed(native, tmp_path / "back.pt")
    direct = write(DATA / name, tmp_path / "direct.pt", "fairseq")
    same(flat(direct.pop("model")), flat(found.pop("model")))
    assert direct == found


@pytest.mark.parametrize("name", FOLDERS)
def test_hugging_faces_models_arrive_bit_for_bit(name: str, tmp_path: Path) -> None:
    source = DATA / "hf" / name
    write(source, tmp_path / "out.pt", "fairseq")
    want, got = tensors(source), tensors(tmp_path / "out.pt")
    made_up = got.keys() - want.keys()
    assert all(key.startswith(("heads.final_proj.", "heads.project_q.")) and not got[key].any() for key in made_up)
    same({key: value for key, value in got.items() if key not in made_up}, want)
    assert changed(source, tmp_path / "out.pt") <= {"normalize_eps", "padding_rule", "attention_mask"}


def texts(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [text for item in value.values() for text in texts(item)]
    if isinstance(value, (list, tuple)):
        return [text for item in value for text in texts(item)]
    return [value] if isinstance(value, str) else []


@pytest.mark.parametrize("name", FILES)
def test_the_file_is_one_that_fairseq_takes_for_a_new_one(name: str, tmp_path: Path) -> None:
    found = write(DATA / name, tmp_path / "out.pt", "fairseq")
    assert found["args"] is None and found["cfg"]["model"]["_name"] and found["cfg"]["task"]["_name"]
    last = found["optimizer_history"][-1]
    assert {"criterion_name", "optimizer_name", "lr_scheduler_state", "num_updates"} == last.keys()
    assert "train_iterator" in found["extra_state"] and isinstance(found["task_state"], dict)
    # Nothing refers to a section that is not there.
    assert not [text for text in texts(found["cfg"]) if "${" in text or text == "???"]


def test_fields_of_training_are_kept(tmp_path: Path) -> None:
    model = write(DATA / "e1_dictconfig.pt", tmp_path / "out.pt", "fairseq")["cfg"]["model"]
    with open_conversion(DATA / "e1_dictconfig.pt") as conversion:
        before = conversion.provenance()["config"]["model"]
    names = ("mask_prob", "mask_length", "mask_selection", "latent_temp", "num_negatives", "feature_grad_mult")
    assert [model[name] for name in names] == [before[name] for name in names]
    assert model["num_negatives"] == 4 and (model["final_dim"], model["latent_vars"], model["latent_groups"]) == (
        8,
        4,
        2,
    )


def test_a_recogniser_is_nested_and_has_its_symbols(tmp_path: Path) -> None:
    found = write(DATA / "data2vec_ctc.pt", tmp_path / "out.pt", "fairseq")
    model = found["cfg"]["model"]
    assert model["_name"] == "wav2vec_ctc" and model["w2v_args"]["model"]["_name"] == "data2vec_audio"
    assert model["normalize"] is found["cfg"]["task"]["normalize"] is model["w2v_args"]["task"]["normalize"] is True
    symbols = list(zoo.load(DATA / "data2vec_ctc.pt").config.symbols)
    assert found["task_state"] == {"target_dictionary": symbols} and found["cfg"]["task"]["labels"] == "ltr"
    assert found["model"]["w2v_encoder.proj.weight"].shape[0] == len(symbols)
    # fairseq gives the encoder the blocks that the recogniser names, whatever the encoder's own configuration says.
    for name, blocks in (("conformer_ctc.pt", "conformer"), ("mms.pt", "trf_adp")):
        model = write(DATA / name, tmp_path / f"{name}.out", "fairseq")["cfg"]["model"]
        assert model["layer_type"] == model["w2v_args"]["model"]["layer_type"] == blocks
    # That era did not store them, and they are not made up: fairseq finds them beside the data.
    assert write(DATA / "e0_ctc_wav2vec2.pt", tmp_path / "e0.pt", "fairseq")["task_state"] == {}


def test_label_dictionaries_are_lists(tmp_path: Path) -> None:
    known = zoo.load(DATA / "e3_resolved.pt").provenance["dictionaries"]
    assert write(DATA / "e3_resolved.pt", tmp_path / "known.pt", "fairseq")["task_state"]["dictionaries"] == known
    found = write(
        DATA / "ctc_hubert.pt", tmp_path / "numbers.pt", "fairseq"
    )  # has embeddings, but does not say of what
    assert found["cfg"]["model"]["_name"] == "hubert_ctc"
    (numbers,) = found["task_state"]["dictionaries"]
    assert numbers == ["<s>", "<pad>", "</s>", "<unk>", "0", "1", "2", "3", "4", "5", "6", "7"]
    assert len(numbers) == len(found["model"]["w2v_encoder.w2v_model.label_embs_concat"])
    # fairseq builds no embeddings where a dictionary is None.
    assert write(DATA / "hf" / "ctc", tmp_path / "none.pt", "fairseq")["task_state"]["dictionaries"] == [None]


def test_what_fairseq_insists_on_is_made_up_and_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write(DATA / "hf" / "base_safetensors", tmp_path / "wav2vec2.pt", "fairseq")
    assert "made_up: final_proj.bias, final_proj.weight, project_q.bias, project_q.weight" in capsys.readouterr().out
    assert model["cfg"]["model"]["quantize_targets"] is False
    assert model["model"]["project_q.weight"].shape == (16, 8) and model["model"]["final_proj.weight"].shape == (16, 16)
    assert convert.main([str(DATA / "data2vec.pt"), "--to", "fairseq", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "_ema made up: the encoder itself" in out
    assert "_ema.layers.0.fc1.weight dropped: moving average" in out


def test_sizes_of_heads_are_those_of_the_tensors(tmp_path: Path) -> None:
    """A codebook of three groups behind two layers, its width not that of the projections."""
    model = tiny("wav2vec2_base_960")
    zoo.save(model, tmp_path / "bare.safetensors")
    shapes = {
        "quantizer.vars": (1, 15, 4), "quantizer.weight_proj.0.0.weight": (32, 16),
        "quantizer.weight_proj.0.0.bias": (32,), "quantizer.weight_proj.1.weight": (15, 32),
        "quantizer.weight_proj.1.bias": (15,), "project_q.weight": (6, 12), "project_q.bias": (6,),
        "final_proj.weight": (6, 32), "final_proj.bias": (6,), "target_glu.0.weight": (12, 6),
        "target_glu.0.bias": (12,),
    }  # fmt: skip
    model.heads = Heads({name: torch.randn(*shape) for name, shape in shapes.items()})
    zoo.save(model, tmp_path / "heads.safetensors")
    found = write(tmp_path / "heads.safetensors", tmp_path / "out.pt", "fairseq")
    fields = found["cfg"]["model"]
    sizes = ("final_dim", "latent_dim", "latent_groups", "latent_vars", "quantizer_depth", "quantizer_factor")
    assert (
        [fields[name] for name in sizes] == [6, 12, 3, 5, 2, 2] and fields["target_glu"] and fields["quantize_targets"]
    )
    assert all(torch.equal(found["model"][name], model.heads.get_parameter(name)) for name in shapes)


def test_half_precision_is_kept_unless_asked(tmp_path: Path) -> None:
    kept = write(DATA / "fp16.pt", tmp_path / "kept.pt", "fairseq")["model"]
    assert {value.dtype for value in kept.values()} == {torch.float16}
    asked = write(DATA / "conformer_rotary.pt", tmp_path / "asked.pt", "fairseq", "--dtype", "float16")["model"]
    full = {key for key, value in asked.items() if value.dtype == torch.float32}
    assert full == {f"encoder.layers.{n}.self_attn.rotary_emb.inv_freq" for n in (0, 1)}  # frequencies stay as they are
    teacher = write(DATA / "data2vec.pt", tmp_path / "teacher.pt", "fairseq", "--dtype", "float16")["model"]
    assert teacher["encoder.layer_norm.weight"].dtype == torch.float16
    assert teacher["_ema"]["layer_norm.weight"].dtype == torch.float32  # as fairseq keeps it


def test_another_sample_rate_is_said(tmp_path: Path) -> None:
    zoo.save(tiny("hubert_base", sample_rate=8000), tmp_path / "model.safetensors")
    found = write(tmp_path / "model.safetensors", tmp_path / "out.pt", "fairseq")
    assert found["cfg"]["task"]["sample_rate"] == 8000 == zoo.load(tmp_path / "out.pt").sample_rate


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("unispeech_large_en", {}, "fairseq has no unispeech models; such a model can be written as "),
        ("wavlm_base", {}, "fairseq has no wavlm models; such a model can be written as "),
        ("wav2vec2_base_960", {"pos_conv_norm": "batch"}, "no wav2vec2 models whose pos_conv_norm is 'batch'"),
        ("hubert_large_ll60k", {"adapter_width": 4}, "no hubert models whose adapter_width is 4"),
        (
            "hubert_base",
            {"pos_conv_norm": "layer", "pos_conv_depth": 2},
            "no hubert models whose pos_conv_kernel is 128",
        ),
        ("wav2vec2_conformer_rope", {"adapter_width": 4}, "no wav2vec2_conformer models whose adapter_width is 4"),
        ("wav2vec2_base_960", {"feature_norm": False}, "no wav2vec2 models whose feature_norm is False"),
        (
            "wav2vec2_base_960",
            {"conv_layers": [[32, 10, 5]]},
            "no projection from 32 convolution channels to a width of 32",
        ),
    ],
)
def test_what_fairseq_does_not_have_is_refused(
    name: str, changes: dict[str, Any], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    zoo.save(tiny(name, **changes), tmp_path / "model.safetensors")
    assert convert.main([str(tmp_path / "model.safetensors"), "-o", str(tmp_path / "out.pt"), "--to", "fairseq"]) == 1
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.safetensors"]


@pytest.mark.parametrize("shape", [(4,), (1, 15), (1, 0, 4)])
def test_heads_of_no_possible_shape_are_refused(
    shape: tuple[int, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny("wav2vec2_base_960")
    model.heads = Heads({"quantizer.vars": torch.zeros(shape)})
    zoo.save(model, tmp_path / "model.safetensors")
    assert convert.main([str(tmp_path / "model.safetensors"), "-o", str(tmp_path / "out.pt"), "--to", "fairseq"]) == 1
    assert f"heads.quantizer.vars has the shape {list(shape)}, where such a head has 3 axes" in capsys.readouterr().err


@pytest.mark.parametrize("config", [None, [], {"model": 3}, {"model": {"w2v_args": {"model": []}}, "task": None}])
def test_what_a_native_file_says_of_its_source_need_not_be_right(config: Any, tmp_path: Path) -> None:
    model = tiny("hubert_base")
    model.heads = Heads({"label_embs_concat": torch.zeros(6, 2)})
    for dictionaries in (None, 3, [4], [["a"]]):
        model.provenance = {"dialect": "fairseq", "config": config, "dictionaries": dictionaries}
        zoo.save(model, tmp_path / "model.safetensors")
        found = write(tmp_path / "model.safetensors", tmp_path / "out.pt", "fairseq", "--force")
        assert found["task_state"]["dictionaries"] == [["<s>", "<pad>", "</s>", "<unk>", "0", "1"]]


def test_convolution_stacks_are_written_as_they_are_read() -> None:
    assert conv_text(STACK) == "[(16,10,5)] + [(16,3,2)] * 4 + [(16,2,2)] * 2"
    for blocks in (STACK, ((1, 2, 3),), ((4, 3, 2), (4, 3, 1), (4, 3, 1), (4, 3, 2))):
        assert parse_conv_layers(conv_text(blocks)) == blocks
