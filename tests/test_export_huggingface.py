"""Hugging Face folders that the zoo writes: every tensor kept bit for bit, a class that fits, and what is left out.

That transformers loads and runs them is shown by `scripts/live_export.py`; its output is in docs/conversion.md.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import zoo
from tests.families import KINDS, tiny
from zoo import convert
from zoo.converters import open_conversion
from zoo.errors import CheckpointError

DATA = Path(__file__).parent / "data"
FOLDERS = sorted(path.parent.name for path in DATA.glob("hf/*/config.json"))
# File -> the class that has its heads, and the heads that no class of its family has.
FILES: dict[str, tuple[str, set[str]]] = {
    "e0_namespace_legacy.pt": ("Wav2Vec2ForPreTraining", set()),
    "e1_dictconfig.pt": ("Wav2Vec2ForPreTraining", set()),
    "e2_unresolved.pt": ("HubertModel", {"final_proj", "label_embs_concat"}),
    "fp16.pt": ("HubertModel", {"final_proj", "label_embs_concat"}),
    "hubert_batch_norm.pt": ("HubertModel", {"final_proj", "label_embs_concat"}),
    "ctc_wav2vec2.pt": ("Wav2Vec2ForCTC", set()),
    "ctc_hubert.pt": ("HubertForCTC", {"label_embs_concat"}),
    "data2vec.pt": ("Data2VecAudioModel", {"final_proj"}),
    "data2vec_ctc.pt": ("Data2VecAudioForCTC", set()),
    "mms.pt": ("Wav2Vec2ForCTC", set()),
    "mms_lid.pt": ("Wav2Vec2Model", {"pooling_layer"}),
    "conformer_relative.pt": ("Wav2Vec2ConformerForPreTraining", set()),
    "conformer_rotary.pt": ("Wav2Vec2ConformerForPreTraining", set()),
    "conformer_ctc.pt": ("Wav2Vec2ConformerForCTC", set()),
    "wavlm.pt": ("WavLMModel", set()),
    "unispeech_sat.pt": ("UniSpeechSatModel", set()),
    "distilhubert.pt": ("HubertModel", {"output_layer"}),
}
SPELLINGS = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
QUANTISER = ("num_codevector_groups", "num_codevectors_per_group", "codevector_dim", "proj_codevector_dim")
UNSAID = ("padding_rule", "normalize_eps", "attention_mask")


def to_hf(source: Path, out: Path, *options: str) -> dict[str, Any]:
    """What config.json says of a folder made with the command line."""
    assert convert.main([str(source), "-o", str(out), "--to", "hf", *options]) == 0
    return read_json(out / "config.json")


def read_json(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def stored(folder: Path) -> dict[str, Tensor]:
    """The tensors of a folder under one spelling of weight norm."""
    files = [*folder.glob("*.safetensors"), *folder.glob("*.bin")]
    state: dict[str, Tensor] = {}
    for file in files:
        state |= load_file(file) if file.suffix == ".safetensors" else torch.load(file, weights_only=True)
    for new, old in SPELLINGS.items():
        state = {name.replace(new, old): value for name, value in state.items()}
    return state


def tensors(path: Path) -> dict[str, Tensor]:
    """What the zoo reads, by its own names, as stored."""
    with open_conversion(path) as conversion:
        return {name: tensor.load().clone() for name, tensor in conversion.checkpoint().tensors.items()}


def assert_same(got: Mapping[str, Tensor], want: Mapping[str, Tensor]) -> None:
    assert got.keys() == want.keys()
    for name, value in want.items():
        assert got[name].dtype == value.dtype, name
        assert torch.equal(got[name], value), name


def edited(folder: Path, changes: Mapping[str, Tensor | None], **config: Any) -> Path:
    """A folder with tensors (None: without them) and fields of config.json changed."""
    state = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in {**state, **changes}.items() if v is not None}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({**read_json(folder / "config.json"), **config}))
    return folder


def copy(name: str, to: Path) -> Path:
    return Path(shutil.copytree(DATA / "hf" / name, to / name, copy_function=shutil.copyfile))


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_comes_back_as_it_was(name: str, tmp_path: Path) -> None:
    """Also through a native file, which remembers what the folder said."""
    native = tmp_path / "native.safetensors"
    assert convert.main([str(DATA / "hf" / name), "-o", str(native)]) == 0
    for source, out in ((DATA / "hf" / name, tmp_path / "a"), (native, tmp_path / "b")):
        hf = to_hf(source, out)
        assert_same(stored(out), stored(DATA / "hf" / name))
        assert hf.items() >= read_json(DATA / "hf" / name / "config.json").items()
        for file in ("preprocessor_config.json", "vocab.json", "tokenizer_config.json"):
            if (DATA / "hf" / name / file).exists():
                assert read_json(out / file) == read_json(DATA / "hf" / name / file)
        assert zoo.load(out).config == zoo.load(source).config
    first, second = ({path.name: path.read_bytes() for path in (tmp_path / x).iterdir()} for x in "ab")
    assert first == second


@pytest.mark.parametrize("spelling", ["old", "new"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_values_survive_in_either_spelling_and_any_precision(spelling: str, dtype: torch.dtype, tmp_path: Path) -> None:
    folder = copy("base_safetensors", tmp_path)
    state = {name: value.to(dtype) for name, value in stored(folder).items()}
    for new, old in SPELLINGS.items() if spelling == "new" else ():
        state = {name.replace(old, new): value for name, value in state.items()}
    save_file(state, folder / "model.safetensors")
    assert any("parametrizations" in name for name in state) == (spelling == "new")
    hf = to_hf(folder, tmp_path / "out")
    assert hf["dtype"] == str(dtype).removeprefix("torch.")
    assert_same(stored(tmp_path / "out"), stored(folder))


@pytest.mark.parametrize("name", FILES)
def test_other_dialects_become_folders(name: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    hf = to_hf(DATA / name, out)
    architecture, dropped = FILES[name]
    assert hf["architectures"] == [architecture]
    want = tensors(DATA / name)
    left = {key.split(".")[1] for key in want if key.startswith("heads.")} & dropped
    assert left == dropped
    kept = {k: v for k, v in want.items() if not (k.startswith("heads.") and k.split(".")[1] in dropped)}
    assert_same(tensors(out), kept)
    config, again = zoo.load(DATA / name).config.to_dict(), zoo.load(out).config.to_dict()
    assert {k: v for k, v in again.items() if k not in UNSAID} == {k: v for k, v in config.items() if k not in UNSAID}
    assert (again["normalize_eps"], again["padding_rule"]) == (1e-7, "length")
    assert again["attention_mask"] == (config["extractor_norm"] == "layer")
    prefix = "" if architecture.endswith("Model") else hf["model_type"].replace("-", "_") + "."
    keys = stored(out).keys()
    assert all((prefix + key) in keys for key in ("feature_projection.projection.weight", "encoder.layer_norm.bias"))


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_model_becomes_a_folder(name: str, tmp_path: Path) -> None:
    model = tiny(name, layerdrop=0.25, dropout=0.125)
    zoo.save(model, tmp_path / "native.safetensors")
    to_hf(tmp_path / "native.safetensors", tmp_path / "out")
    again = zoo.load(tmp_path / "out")
    assert_same(again.state_dict(), model.state_dict())
    assert (again.config.layerdrop, again.config.dropout) == (0.25, 0.125)


def test_half_precision_is_kept_or_asked_for(tmp_path: Path) -> None:
    assert to_hf(DATA / "fp16.pt", tmp_path / "a")["dtype"] == "float16"
    assert {value.dtype for value in stored(tmp_path / "a").values()} == {torch.float16}
    assert to_hf(DATA / "fp16.pt", tmp_path / "b", "--dtype", "float32")["dtype"] == "float32"
    assert {value.dtype for value in stored(tmp_path / "b").values()} == {torch.float32}


def test_sizes_of_heads_come_from_their_shapes(tmp_path: Path) -> None:
    hf = to_hf(DATA / "e0_namespace_legacy.pt", tmp_path / "a")
    assert [hf[name] for name in QUANTISER] == [2, 4, 8, 8]
    assert to_hf(DATA / "mms.pt", tmp_path / "b")["vocab_size"] == 8
    assert to_hf(DATA / "mms.pt", tmp_path / "c")["adapter_attn_dim"] == zoo.load(DATA / "mms.pt").config.adapter_width


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("bin", {"classifier_proj_size", "use_weighted_layer_sum"}),
        ("xvector", {"tdnn_dim", "tdnn_kernel", "xvector_output_dim", "use_weighted_layer_sum"}),
        ("unispeech_pretraining", {"num_ctc_classes", *QUANTISER}),
        ("unispeech_sat_pretraining", {"num_clusters", *QUANTISER}),
    ],
)
def test_what_shapes_say_is_said_where_the_configuration_did_not(name: str, fields: set[str], tmp_path: Path) -> None:
    hf = read_json(DATA / "hf" / name / "config.json")
    folder = copy(name, tmp_path)
    (folder / "config.json").write_text(json.dumps({k: v for k, v in hf.items() if k not in {*fields, "id2label"}}))
    again = to_hf(folder, tmp_path / "out")
    assert {k: again[k] for k in {*fields, "architectures"}} == {k: hf[k] for k in {*fields, "architectures"}}
    assert len(again.get("id2label", ())) == (3 if name in ("bin", "xvector") else 0)


def test_the_class_that_the_folder_names_is_chosen(tmp_path: Path) -> None:
    """A classifier's folder with a stray CTC head, and a CTC model's with a stray classifier."""
    classifier = {
        "projector.weight": torch.ones(4, 16),
        "projector.bias": torch.ones(4),
        "classifier.weight": torch.ones(3, 4),
        "classifier.bias": torch.ones(3),
    }
    for architecture, lost in (("HubertForCTC", "classifier"), ("HubertForSequenceClassification", "ctc_proj")):
        folder = edited(copy("ctc", tmp_path / architecture), classifier, architectures=[architecture])
        assert to_hf(folder, tmp_path / "out", "--force")["architectures"] == [architecture]
        assert lost not in {name.split(".")[1] for name in tensors(tmp_path / "out") if name.startswith("heads.")}


def test_a_head_that_is_not_whole_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """transformers would make up what is missing."""
    folder = edited(copy("ctc", tmp_path), {"lm_head.bias": None})
    capsys.readouterr()
    assert to_hf(folder, tmp_path / "out", "--json")["architectures"] == ["HubertModel"]
    report = json.loads(capsys.readouterr().out)
    assert report["dropped"] == {"heads.ctc_proj.weight": "HubertModel has no such head"}
    assert "encoder.layer_norm.bias" in load_file(tmp_path / "out" / "model.safetensors")


@pytest.mark.parametrize("sizes", [(1, 8, 3), (1, 8, 16), (1, 7, 4)])
def test_a_quantiser_of_other_sizes_is_left_out(sizes: tuple[int, ...], tmp_path: Path) -> None:
    folder = edited(copy("pretraining_prefix", tmp_path), {"quantizer.codevectors": torch.ones(sizes)})
    assert to_hf(folder, tmp_path / "out")["architectures"] == ["Wav2Vec2Model"]


def test_a_mask_embedding_that_was_made_up_is_left_out(tmp_path: Path) -> None:
    hf = to_hf(DATA / "distilhubert.pt", tmp_path / "out")
    assert (hf["mask_time_prob"], hf["mask_feature_prob"]) == (0.0, 0.0)
    assert "masked_spec_embed" not in stored(tmp_path / "out")
    assert to_hf(DATA / "e3_resolved.pt", tmp_path / "with")["mask_time_prob"] > 0
    assert "masked_spec_embed" in stored(tmp_path / "with")


def test_a_mask_embedding_that_was_trained_since_is_written(tmp_path: Path) -> None:
    model = zoo.load(DATA / "distilhubert.pt")
    torch.nn.init.ones_(model.masked_spec_embed)
    zoo.save(model, tmp_path / "native.safetensors")
    assert to_hf(tmp_path / "native.safetensors", tmp_path / "out")["mask_time_prob"] > 0
    assert stored(tmp_path / "out")["masked_spec_embed"].all()


def test_without_masking_the_library_has_no_mask_embedding_but_for_one_class(tmp_path: Path) -> None:
    off = {"mask_time_prob": 0.0, "mask_feature_prob": 0.0}
    to_hf(edited(copy("ctc", tmp_path), {}, **off), tmp_path / "a")
    assert "hubert.masked_spec_embed" not in stored(tmp_path / "a")
    sat = edited(copy("unispeech_sat_pretraining", tmp_path), {"unispeech_sat.masked_spec_embed": None}, **off)
    to_hf(sat, tmp_path / "b")
    assert not stored(tmp_path / "b")["unispeech_sat.masked_spec_embed"].any()


def test_the_pad_token_is_the_blank(tmp_path: Path) -> None:
    hf = to_hf(DATA / "ctc_wav2vec2.pt", tmp_path / "out")
    vocabulary, tokenizer = (read_json(tmp_path / "out" / name) for name in ("vocab.json", "tokenizer_config.json"))
    assert hf["pad_token_id"] == vocabulary[tokenizer["pad_token"]] == 0
    assert [s for s, _ in sorted(vocabulary.items(), key=lambda item: item[1])] == [
        *zoo.load(DATA / "ctc_wav2vec2.pt").config.symbols
    ]
    assert hf["vocab_size"] == len(vocabulary)


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("wav2vec2_conformer_rope", {"norm_first": False}, "hf has no wav2vec2_conformer models whose norm_first is F"),
        ("mms_1b_all", {"norm_first": False}, "hf has no wav2vec2 models whose adapter_width is 16"),
        ("wav2vec2_base_960", {"pos_conv_norm": "batch"}, "hf has no wav2vec2 models whose pos_conv_norm is 'batch'"),
        ("wav2vec2_base_960", {"relative_buckets": 32}, "hf has no wav2vec2 models whose relative_buckets is 32"),
        ("data2vec_base_960", {"extractor_norm": "group"}, "hf has no data2vec models whose extractor_norm is 'group'"),
    ],
)  # fmt: skip
def test_what_the_library_does_not_have_is_refused(
    name: str, changes: dict[str, Any], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    zoo.save(tiny(name, **changes), tmp_path / "native.safetensors")
    assert convert.main([str(tmp_path / "native.safetensors"), "-o", str(tmp_path / "out"), "--to", "hf"]) == 1
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["s3prl/tera.ckpt", "wav2vec_u/plain.pt"])
def test_a_family_that_the_library_does_not_have(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert convert.main([str(DATA / name), "-o", str(tmp_path / "out"), "--to", "hf"]) == 1
    assert "hf has no" in capsys.readouterr().err


def test_what_a_folder_said_may_be_anything(tmp_path: Path) -> None:
    """Fields that the zoo does not use are written back, whatever they hold."""
    odd = {"id2label": 3, "mask_time_prob": "often", "mask_feature_prob": None, "pad_token_id": [1], "architectures": 5}
    hf = to_hf(edited(copy("ctc", tmp_path), {}, **odd, mine={"a": [1]}), tmp_path / "out")
    assert (hf["mine"], hf["pad_token_id"], hf["architectures"]) == ({"a": [1]}, [1], ["HubertForCTC"])


def test_fields_that_other_classes_ignore_are_ignored(tmp_path: Path) -> None:
    """transformers builds batch norm into HuBERT only, and the position bias into WavLM, with or without the fields."""
    assert (
        zoo.load(edited(copy("base_safetensors", tmp_path), {}, conv_pos_batch_norm=True)).config.pos_conv_norm
        == "weight"
    )
    folder = copy("sharded", tmp_path)
    hf = read_json(folder / "config.json")
    (folder / "config.json").write_text(json.dumps({k: v for k, v in hf.items() if k != "num_buckets"}))
    with open_conversion(folder) as conversion:
        assert conversion.config.relative_buckets == 320
    (folder / "config.json").write_text(json.dumps({**hf, "num_buckets": 16}))
    with pytest.raises(CheckpointError, match="rel_attn_embed"):
        zoo.load(folder)
