"""Genuine checkpoints of every era and dialect convert, and give what their own toolkit computed from them."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import zoo
from tests.golden import generator
from tests.golden.compare import TOLERANCES
from tests.trees import loaded
from zoo import convert
from zoo.converters import open_conversion
from zoo.converters._fields import parse_conv_layers, resolve
from zoo.converters._rows import Drop, Row, assign
from zoo.converters._unpickle import open_torch_file
from zoo.converters._unsupported import UNSUPPORTED
from zoo.errors import CheckpointError

DATA = Path(__file__).parent / "data"


def recorded() -> dict[str, dict[str, Any]]:
    """What the references recorded of each file or folder below `data`, with its expected values."""
    found = {}
    for path in (*DATA.glob("*expected.json"), DATA / "hf" / "expected.json"):
        facts = json.loads(path.read_text())
        with np.load(path.with_suffix(".npz")) as arrays:
            for name, entry in (facts.get("files") or facts["folders"]).items():
                expected = {key.split("/")[1]: arrays[key] for key in arrays if key.startswith(f"{name}/")}
                key = str((path.parent / name).relative_to(DATA))
                found[key] = {**entry, "expected": expected, "utterance": facts["utterance"]}
    return found


FACTS = recorded()
FILES = sorted(FACTS)


@pytest.mark.parametrize("name", FILES)
def test_values_are_the_references(name: str, tmp_path: Path) -> None:
    native = tmp_path / "native.safetensors"
    assert convert.main([str(DATA / name), "-o", str(native)]) == 0
    facts = FACTS[name]
    wave = torch.from_numpy(generator.waveform(facts["utterance"]))
    for source in (DATA / name, native):
        model = zoo.load(source, heads=True)
        assert (model.config.family, model.config.normalize) == (facts["family"], facts["normalize"])
        with torch.no_grad():
            out = model(wave[None])
        tolerance = TOLERANCES["tiny"]
        assert tolerance.excess(out.hidden_states[-1][0].numpy(), facts["expected"]["last"]) <= 1
        if "logits" in facts["expected"]:
            assert tolerance.excess(out.logits[0].numpy(), facts["expected"]["logits"]) <= 1
        else:  # UniSpeech has a CTC head from pre-training on, whose logits the reference did not record
            assert (out.logits is None) == (facts["family"] != "unispeech")


@pytest.mark.parametrize("name", FILES)
def test_every_tensor_arrives_unchanged(name: str) -> None:
    facts = FACTS[name]
    model = zoo.load(DATA / name, heads=True)
    state = model.state_dict()
    with open_conversion(DATA / name) as conversion:
        filled = conversion.assignment.filled
    assert set(filled) | set(conversion.assignment.made_up) == set(state)
    # DistilHuBERT was trained unmasked, data2vec 2.0 shows zeros, torchaudio leaves the embedding out.
    unmasked = {"distilhubert.pt", *(name for name in FACTS if name.startswith(("torchaudio", "data2vec2")))}
    assert bool(conversion.assignment.made_up) == (name in unmasked)
    teacher = {f"_ema.{key}" for key in facts.get("ema", ())}
    copies = {key for key in facts["state"] if re.search(r"layers\.[1-9]\d*\.self_attn\.rotary_emb\.inv_freq$", key)}
    assert {key.partition("[")[0] for key in filled.values()} == set(facts["state"]) - copies
    assert set(conversion.assignment.dropped) == teacher | copies
    made = generator.tensors(facts["state"], facts["seed"], facts["scale"])
    if language := facts.get("language"):  # whose tensors stand beside the model's and take their place
        own = {key: facts["state"][key] for key in language["tensors"]}
        made |= generator.tensors(own, language["seed"], facts["scale"])
    for target, source in filled.items():
        key, _, part = source.partition("[")  # of a stack of projections, one
        want = torch.from_numpy(made[key])
        if part:
            want = want.chunk(3)[int(part[0])]
        while want.dim() > state[target].dim():
            (want,) = want  # a stack of one adapter; one scale for every layer
        if facts["state"][key]["dtype"] == "float16":
            want = want.half().float()
        assert torch.equal(state[target], want), target


def test_symbols_of_a_ctc_head() -> None:
    symbols = zoo.load(DATA / "ctc_hubert.pt").config.symbols
    assert symbols is not None and symbols[:4] == ("<s>", "<pad>", "</s>", "<unk>")
    assert zoo.load(DATA / "e0_ctc_wav2vec2.pt").config.symbols is None  # that era does not store the dictionary


def test_symbols_of_a_hugging_face_folder() -> None:
    symbols = zoo.load(DATA / "hf" / "ctc").config.symbols
    vocabulary = json.loads((DATA / "hf" / "ctc" / "vocab.json").read_text())
    assert symbols is not None and [vocabulary[symbol] for symbol in symbols] == list(range(len(vocabulary)))


def several_languages(path: Path) -> Path:
    """`mms.pt` with seven languages: the same tensors times 1 (the file's own), 2, 3, ..., symbols in another order."""
    with open_torch_file(DATA / "mms.pt") as file:
        root = loaded(file.root)
    own = root["adapter"]["xyz"]
    symbols = own["task_state"]["target_dictionary"]["symbols"]
    for factor, language in enumerate(("abc", "abd", "abe", "abf", "abg", "abh"), start=2):
        tensors = {key: factor * tensor for key, tensor in own["model"].items()}
        dictionary = {"symbols": [*symbols[:4], *reversed(symbols[4:])]}
        root["adapter"][language] = {"model": tensors, "task_state": {"target_dictionary": dictionary}}
    torch.save(root, path)
    return path


@pytest.mark.parametrize("language", ["xyz", "abd"])
def test_one_language_of_several(language: str, tmp_path: Path) -> None:
    source, native = several_languages(tmp_path / "several.pt"), tmp_path / "native.safetensors"
    assert convert.main([str(source), "-o", str(native), "--language", language]) == 0
    model, only = zoo.load(native, heads=True), zoo.load(DATA / "mms.pt", heads=True)
    assert model.provenance["language"] == language
    symbols = only.config.symbols
    assert model.config.symbols == (symbols if language == "xyz" else (*symbols[:4], *reversed(symbols[4:])))
    factor = {"xyz": 1, "abd": 3}[language]
    changed = 0
    for key, tensor in only.state_dict().items():
        own = "adapter_layer" in key or key.startswith("heads.ctc_proj")
        assert torch.equal(model.state_dict()[key], factor * tensor if own else tensor), key
        changed += own
    assert changed == 6 * only.num_layers + 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            [],
            "it holds adapters of 7 languages (abc, abd, abe, abf, abg, ...); choose one with `python",
        ),
        (["--language", "ab"], "no adapter of the language 'ab'; it has abc, abd, abe, abf, abg, ..."),
    ],
)
def test_languages_that_are_refused(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = several_languages(tmp_path / "several.pt")
    assert convert.main([str(source), "-o", str(tmp_path / "out"), *arguments]) == 1
    message = capsys.readouterr().err
    assert words in message and message.count("\n") == 1 and not (tmp_path / "out").exists()


def test_the_one_language_of_a_file_is_used() -> None:
    model = zoo.load(DATA / "mms.pt", heads=True)
    language = FACTS["mms.pt"]["language"]
    assert model.config.symbols is not None and model.config.symbols[4:8] == tuple(language["symbols"])
    assert model.heads.ctc_proj.weight.shape == (len(model.config.symbols), 16)
    assert model.provenance["language"] == language["name"] and model.config.adapter_width == 4


def test_label_dictionaries_are_kept() -> None:
    (symbols,) = zoo.load(DATA / "e3_resolved.pt").provenance["dictionaries"]
    assert symbols[:4] == ["<s>", "<pad>", "</s>", "<unk>"]


def test_heads_are_built_only_when_asked_for() -> None:
    assert zoo.load(DATA / "ctc_hubert.pt").heads is None
    model = zoo.load(DATA / "ctc_hubert.pt", heads=True)
    wave = torch.randn(1, 1000)
    assert model(wave, layers=[0]).logits is None  # the head needs the last layer, which was not asked for
    assert model(wave, layers=[-1]).logits.shape[2] == len(model.config.symbols)


@pytest.mark.parametrize(
    ("nest", "around"),
    [
        ("encoder.w2v_model.", ("decoder.layers.0.fc1.weight", "decoder.embed_out", "encoder.proj.bias")),
        (
            "encoder.w2v_encoder.w2v_model.",
            ("decoder.embed_tokens.weight", "encoder.adaptor.layers.0.0.weight", "encoder.w2v_encoder.proj.weight"),
        ),
    ],
)
def test_the_encoder_of_a_sequence_to_sequence_model(nest: str, around: tuple[str, ...], tmp_path: Path) -> None:
    """`wav2vec_seq2seq` and speech translation: what belongs to the decoder is left behind, with a reason."""
    facts = FACTS["ctc_hubert.pt"]
    made = generator.tensors(facts["state"], facts["seed"], facts["scale"])
    state = {
        k.replace("w2v_encoder.w2v_model.", nest): torch.from_numpy(v) for k, v in made.items() if "w2v_model" in k
    }
    state |= {key: torch.ones(2) for key in around}
    config = facts["config"]
    cfg = {**config, "model": {**config["model"], "_name": "wav2vec_seq2seq"}}
    torch.save({"args": None, "cfg": cfg, "model": state}, tmp_path / "source.pt")
    model, whole = zoo.load(tmp_path / "source.pt", heads=True), zoo.load(DATA / "ctc_hubert.pt")
    assert model.provenance["dropped"].keys() == set(around)
    assert all("decoder" in reason for reason in model.provenance["dropped"].values())
    found = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("heads.")}
    assert found.keys() == whole.state_dict().keys()
    assert all(torch.equal(tensor, whole.state_dict()[name]) for name, tensor in found.items())


def test_conversion_reads_no_optimiser_state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from zoo.converters._unpickle import LazyTensor

    read = []
    for name in ("load", "pieces"):
        original = getattr(LazyTensor, name)
        monkeypatch.setattr(LazyTensor, name, lambda self, original=original: read.append(self) or original(self))
    assert convert.main([str(DATA / "e0_namespace_legacy.pt"), "-o", str(tmp_path / "out.safetensors")]) == 0
    assert len(read) == len(FACTS["e0_namespace_legacy.pt"]["state"])


def checkpoint(path: Path, **changes: object) -> Path:
    """A small fairseq-like file with changes to its configuration or tensors."""
    facts = FACTS["e3_resolved.pt"]
    model = {**facts["config"]["model"], **changes.pop("model", {})}
    task = {**facts["config"]["task"], **changes.pop("task", {})}
    state = {k: torch.from_numpy(v) for k, v in generator.tensors(facts["state"], 1, "usual").items()}
    for name, value in changes.pop("tensors", {}).items():
        if value is None:
            del state[name]
        else:
            state[name] = value
    torch.save({"args": None, "cfg": {"model": model, "task": task}, "model": state, **changes}, path)
    return path


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"encoder.layers.0.fc1.bias": None}, "parameters that nothing fills: encoder.layers.0.feed_forward"),
        ({"surprise.weight": torch.ones(2)}, "no place for: surprise.weight"),
        ({"encoder.layers.9.fc1.bias": torch.ones(16)}, "no place for: encoder.layers.9.fc1.bias"),
        ({"encoder.layers.0.fc1.bias": torch.ones(5)}, r"encoder.layers.0.fc1.bias \[5\] instead of \[16\]"),
        ({"mask_emb": "text"}, "something else than a tensor under 'mask_emb'"),
    ],
)
def test_keys_that_do_not_fit_are_named_and_nothing_is_written(
    tensors: dict[str, object], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = checkpoint(tmp_path / "source.pt", tensors=tensors)
    with pytest.raises(CheckpointError, match=words):
        zoo.load(source)
    assert convert.main([str(source), "-o", str(tmp_path / "out.safetensors")]) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source.pt"]


@pytest.mark.parametrize(
    ("model", "task", "words"),
    [
        ({"layer_type": "conformer"}, {}, "layer_type is 'conformer'"),
        ({"activation_fn": "relu"}, {}, "activation_fn is 'relu'"),
        ({"extractor_mode": "odd"}, {}, "extractor_mode is 'odd'"),
        ({"encoder_attention_heads": 3}, {}, "width 16 cannot be divided by num_heads 3"),
        ({"encoder_layers": 10**9}, {}, "must lie from 1 to"),
        ({"encoder_layers": "12"}, {}, "'num_layers' cannot be '12'"),
        ({"normalize": True}, {"normalize": False}, "normalize = true and normalize = false"),
        ({"_name": "roberta"}, {}, None),  # the label embeddings still say that it is HuBERT
        ({"conv_feature_layers": "__import__('os').system('true')"}, {}, "expected a sum of lists"),
    ],
)
def test_configurations_that_cannot_be_right(
    model: dict[str, object], task: dict[str, object], words: str | None, tmp_path: Path
) -> None:
    source = checkpoint(tmp_path / "source.pt", model=model, task=task)
    if words is None:
        assert zoo.load(source).config.family == "hubert"
        return
    with pytest.raises(CheckpointError, match=words):
        zoo.load(source)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (
            "multi-resolution HuBERT",
            {"model_cfg": {}, "model_weight": {"middle_encoder.layer_norm.bias": torch.ones(1)}},
        ),
        ("multi-resolution HuBERT", {"args": {"arch": "multires_hubert"}, "model": {}}),
        ("an ESPnet model", {"encoder.hubert_pretrain_model.wav2vec2.feature_extractor.bias": torch.ones(1)}),
        (
            "multi-resolution HuBERT",
            {"model": {"w2v_encoder.w2v_model.middle_encoder.layers.0.fc1.bias": torch.ones(1)}},
        ),
        ("LightHuBERT", {"cfg": {"model": {"_name": "hubert_pruner"}}, "model": {}}),
        ("ILS-HuBERT", {"model": {"encoder.layers.4.post_layer_norm.weight": torch.ones(1)}}),
    ],
)
def test_models_that_are_not_supported_are_named(name: str, content: dict[str, Any], tmp_path: Path) -> None:
    torch.save(content, tmp_path / "source.pt")
    with pytest.raises(CheckpointError, match=f"it is {name}, which is not supported, because "):
        zoo.load(tmp_path / "source.pt")


def test_every_unsupported_model_is_in_the_docs() -> None:
    text = (Path(__file__).parent.parent / "docs" / "models.md").read_text(encoding="utf-8")
    for model in UNSUPPORTED:
        assert f"| {model.name}" in text and model.reason in text


def test_an_unknown_model_is_named(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "source.pt", model={"_name": "roberta"}, tensors={"label_embs_concat": None})
    with pytest.raises(CheckpointError, match="the model is 'roberta' in fairseq's terms"):
        zoo.load(source)


@pytest.mark.parametrize(
    ("source", "changes", "words"),
    [
        ("conformer_relative.pt", {"pos_enc_type": "abs"}, "pos_enc_type 'abs' and attn_type 'espnet'"),
        ("conformer_relative.pt", {"attn_type": ""}, "pos_enc_type 'rel_pos' and attn_type ''"),
        ("conformer_relative.pt", {"depthwise_conv_kernel_size": 4}, "depthwise_kernel is 4; it must be odd"),
        ("conformer_relative.pt", {"layer_type": "trf_adp"}, "supported is one adapter after every block"),
        ("conformer_relative.pt", {"layer_type": "transformer"}, "no place for: encoder.layers.0.ffn1"),
        ("conformer_relative.pt", {"pos_enc_type": "rope"}, "no place for: encoder.layers.0.self_attn.pos_bias"),
        ("hf/conformer_ctc", {"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ("hf/conformer_ctc", {"hidden_act": None}, "hidden_act is 'gelu'"),
        ("hf/conformer_ctc", {"rotary_embedding_base": 500}, "rotary_embedding_base is 500"),
        ("hf/conformer_ctc", {"position_embeddings_type": None}, "positions"),
        ("hf/conformer_ctc", {"num_attention_heads": 16}, "1 channels are odd"),
    ],
)
def test_conformers_that_are_not_supported(source: str, changes: dict[str, object], words: str, tmp_path: Path) -> None:
    facts = FACTS[source]
    state = {key: torch.from_numpy(value) for key, value in generator.tensors(facts["state"], 1, "usual").items()}
    path = tmp_path / "source"
    if source.startswith("hf/"):
        shutil.copytree(DATA / source, path)
        config = json.loads((path / "config.json").read_text()) | changes
        if changes == {"hidden_act": None}:
            del config["hidden_act"]
        (path / "config.json").write_text(json.dumps(config))
    else:
        config = facts["config"]
        torch.save({"args": None, "cfg": {**config, "model": {**config["model"], **changes}}, "model": state}, path)
    with pytest.raises(CheckpointError, match=words):
        zoo.load(path)


@pytest.mark.parametrize(
    ("changes", "audio", "words"),
    [
        ({"layer_norm_first": True}, {}, "layer_norm_first is True, but data2vec 2.0 is supported with False only"),
        ({"norm_eps": 1e-6}, {}, "norm_eps is 1e-06, but"),
        ({"norm_eps": None}, {}, "norm_eps is 1e-06, but"),
        ({"depth": "many"}, {}, "expected numbers of 0 or more"),
        ({"depth": 10**5}, {}, "must lie from 1 to"),
        ({"depth": 0}, {}, "prenet_layers is 1; it must lie from 0 to 0"),
        ({"depth": 2}, {}, "parameters that nothing fills: encoder.layers.2."),
        ({"num_heads": 4}, {"num_alibi_heads": 4}, r"alibi_scale \[2, 1, 1\] instead of \[4, 1, 1\]"),
        ({}, {"num_alibi_heads": 1}, "num_alibi_heads is 1, but"),
        ({}, {"num_extra_tokens": 10}, "modalities.audio.num_extra_tokens is 10, but"),
        ({}, {"use_alibi_encoder": False}, "use_alibi_encoder is False, but"),
        ({}, {"learned_alibi": True}, "learned_alibi is True, but"),
        ({}, {"learned_alibi_scale_per_layer": True}, "learned_alibi_scale_per_layer is True, but"),
        ({}, {"conv_pos_pre_ln": True}, "conv_pos_pre_ln is True, but"),
        ({}, {"conv_pos_depth": 1}, "pos_conv_norm is 'weight'; data2vec 2.0 has 'layer'"),
        ({}, {"prenet_depth": 0}, "no place for: modality_encoders.AUDIO.context_encoder.blocks.0"),
        ({}, {"feature_encoder_spec": "exit()"}, "expected a sum of lists"),
    ],
)
def test_options_of_data2vec2_that_are_not_supported(
    changes: dict[str, object], audio: dict[str, object], words: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=words):
        zoo.load(data2vec2(tmp_path / "source.pt", changes, audio))


def data2vec2(path: Path, changes: dict[str, object], audio: dict[str, object], **tensors: torch.Tensor) -> Path:
    """data2vec2.pt with changes to its configuration and tensors; a value of None leaves the field out."""
    facts = FACTS["data2vec2.pt"]
    model = {**facts["config"]["model"], **changes}
    model["modalities"] = {**model["modalities"], "audio": {**model["modalities"]["audio"], **audio}}
    model = {name: value for name, value in model.items() if value is not None}
    state = {key: torch.from_numpy(value) for key, value in generator.tensors(facts["state"], 1, "usual").items()}
    torch.save({"args": None, "cfg": {**facts["config"], "model": model}, "model": state | tensors}, path)
    return path


def test_other_modalities_of_data2vec2_are_named(tmp_path: Path) -> None:
    other = {"modality_encoders.IMAGE.extra_tokens": torch.ones(1, 1, 16)}
    with pytest.raises(CheckpointError, match="of AUDIO and IMAGE; supported is a model of AUDIO alone"):
        zoo.load(data2vec2(tmp_path / "source.pt", {}, {}, **other))


def test_earlier_spellings_of_data2vec2(tmp_path: Path) -> None:
    """A scale without the axis of layers, and an embedding that the present code has no place for."""
    key = "modality_encoders.AUDIO.alibi_scale"
    scale = torch.tensor([0.5, 1.5])[None, :, None, None]
    older = {key: scale, "modality_encoders.AUDIO.encoder_mask": torch.ones(16)}
    model = zoo.load(data2vec2(tmp_path / "source.pt", {}, {}, **older))
    assert torch.equal(model.encoder.alibi_scale, scale[0])
    assert list(model.provenance["dropped"]) == ["modality_encoders.AUDIO.encoder_mask"]


def test_frequencies_of_rotation_are_the_files_or_made(tmp_path: Path) -> None:
    """Kept at full precision: half of it would turn late frames by another angle."""
    key = "encoder.embed_positions.inv_freq"
    stored = zoo.load(DATA / "hf" / "conformer_ctc").get_buffer(key)
    want = torch.tensor([1.0, 1 / 3, 1 / 5, 1 / 7])
    assert torch.equal(stored, want)
    folder = shutil.copytree(DATA / "hf" / "conformer_ctc", tmp_path / "without")
    tensors = load_file(folder / "model.safetensors")
    del tensors[f"wav2vec2_conformer.{key}"]
    save_file(tensors, folder / "model.safetensors")
    model = zoo.load(folder)
    assert model.provenance["made_up"] == [key]
    assert torch.allclose(model.get_buffer(key), torch.tensor([1.0, 0.1, 0.01, 0.001]), rtol=1e-6, atol=0)
    for half in (torch.float16, torch.bfloat16):
        model = zoo.load(DATA / "hf" / "conformer_ctc", dtype=half)
        assert torch.equal(model.get_buffer(key), want) and model.masked_spec_embed.dtype == half
    assert (
        convert.main([str(DATA / "hf" / "conformer_ctc"), "--dtype", "float16", "-o", f"{tmp_path}/h.safetensors"]) == 0
    )
    assert torch.equal(load_file(tmp_path / "h.safetensors")[key], want)


STANDARD = ((512, 10, 5), (512, 3, 2), (512, 3, 2), (512, 3, 2), (512, 3, 2), (512, 2, 2), (512, 2, 2))


@pytest.mark.parametrize(
    ("text", "blocks"),
    [
        ("[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2", STANDARD),
        ("[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)] + [(512,2,2)]", STANDARD),
        (" [ ( 512 , 10 , 5 ) , ( 512,3,2 ) ] ", STANDARD[:2]),
        ("[(512,10,5),] + 4*[(512,3,2)]", STANDARD[:5]),
        ("[(512,10,5)]+[(512,3,2)]*2*2", STANDARD[:5]),
        ([[512, 10, 5], [512, 3, 2]], STANDARD[:2]),
        ([(512, 10, 5)], STANDARD[:1]),
    ],
)
def test_convolution_stacks(text: object, blocks: object) -> None:
    assert parse_conv_layers(text) == blocks


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "[(512,10)]", "[(512,10,5)", "(512,10,5)", "[(512,10,5)] +", "[(512,10,5)] * -1", "[(0,1,1)]",
        "[(512,10,5)] ** 9", "[(512,10,5)] * 65", "[(512,10,5)] * 999999 * 999999", "[(1,2,3)] * 0", "[(1e3,2,3)]",
        "[(512,10,5)] if 1 else 2", "__import__('os')", "[(9999999,1,1)]", "[(1,1,1)]" + "+[(1,1,1)]" * 64,
        None, 5, [[512, 10]], [["512", 10, 5]], [[True, 1, 1]], "[" * 5000,
    ],
)  # fmt: skip
def test_convolution_stacks_that_are_refused(text: object) -> None:
    with pytest.raises(CheckpointError, match="conv_feature_layers is"):
        parse_conv_layers(text)


def test_references_are_followed_and_circles_end() -> None:
    inner = {"task": {"normalize": True}, "loop": "${loop}", "a": "${b}", "b": "${task.normalize}"}
    assert resolve("${task.normalize}", inner) is True
    assert resolve("${a}", inner) is True
    assert resolve("${..task.normalize}", inner) is True
    assert resolve("${loop}", inner) is None
    assert resolve("${nowhere.at.all}", inner) is None
    assert resolve("???", inner) is None
    assert resolve("${task.data}", {}, {"task": {"data": "x"}}) == "x"
    assert resolve("plain", inner) == "plain"


def test_every_key_is_accounted_for_exactly_once() -> None:
    rows = [Row("fc.{wb}", "linear.{wb}"), Row("head.{rest}", "heads.{rest}")]
    shapes = {"fc.weight": (2, 3), "fc.bias": (2,), "head.x.y": (1,), "ema": (1,)}
    expected = {"linear.weight": (2, 3), "linear.bias": (2,)}
    done = assign(rows, [Drop("ema", "teacher copy")], shapes, expected)
    assert done.filled == {"linear.weight": "fc.weight", "linear.bias": "fc.bias", "heads.x.y": "head.x.y"}
    assert done.dropped == {"ema": "teacher copy"}
    for extra, words in (
        ([Row("fc.bias", "linear.bias")], "more than one place: fc.bias"),
        ([Row("ema", "linear.bias")], "more than one place: ema"),
    ):
        with pytest.raises(CheckpointError, match=words):
            assign([*rows, *extra], [Drop("ema", "teacher copy")], shapes, expected)


def test_the_hash_of_the_source_is_kept_unless_most_of_it_is_left_behind(tmp_path: Path) -> None:
    small = DATA / "e3_resolved.pt"
    assert convert.main([str(small), "-o", str(tmp_path / "small.safetensors")]) == 0
    want = hashlib.sha256(small.read_bytes()).hexdigest()
    assert zoo.load(tmp_path / "small.safetensors").provenance["sha256"] == want
    assert zoo.load(small).provenance["sha256"] == want
    large = checkpoint(tmp_path / "large.pt", last_optimizer_state={"exp_avg": torch.ones(1 << 23)})
    assert convert.main([str(large), "-o", str(tmp_path / "large.safetensors")]) == 0
    assert "sha256" not in zoo.load(tmp_path / "large.safetensors").provenance


@pytest.mark.parametrize("piece_bytes", [8, 100, 1 << 20])
def test_tensors_are_copied_in_the_order_of_their_indices(
    piece_bytes: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """However they lie in the file, and however small the pieces are."""
    monkeypatch.setattr("zoo.converters._unpickle.PIECE_BYTES", piece_bytes)
    names = ("encoder.layers.0.fc1.weight", "feature_extractor.conv_layers.1.0.weight")
    plain = generator.tensors(FACTS["e3_resolved.pt"]["state"], 1, "usual")
    turned = {name: torch.from_numpy(plain[name]).transpose(0, 1).contiguous().transpose(0, 1) for name in names}
    assert not any(tensor.is_contiguous() for tensor in turned.values())
    for name, tensors in (("plain", {}), ("turned", turned)):
        source = checkpoint(tmp_path / f"{name}.pt", tensors=tensors)
        assert convert.main([str(source), "-o", str(tmp_path / f"{name}.safetensors")]) == 0
    want, got = (load_file(tmp_path / f"{name}.safetensors") for name in ("plain", "turned"))
    assert want.keys() == got.keys() and all(torch.equal(got[name], want[name]) for name in want)
    assert torch.equal(got["encoder.layers.0.feed_forward.intermediate_dense.weight"], turned[names[0]])
