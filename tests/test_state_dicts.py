"""State dicts without a configuration: found under any prefix, read in any toolkit's names, or refused with a hint."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import zoo
import zoo._registry
from tests.golden import generator
from tests.golden.compare import TOLERANCES
from tests.test_conversion import DATA, FACTS
from zoo import convert
from zoo._registry import families
from zoo._tensors import Lazy, zeros
from zoo.converters import dialects, open_conversion
from zoo.converters._rows import invert
from zoo.converters._source import Unwritten
from zoo.errors import CheckpointError, UnknownModelError

BARE = json.loads((DATA / "bare" / "expected.json").read_text())
CONV = re.compile(r"pos_conv(_embed)?\.(conv|0)\.(weight_[gv]|parametrizations\.weight\.original[01])$")

Register = Callable[..., None]


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Iterator[Register]:
    """Makes released models of small configurations, the only ones of their families."""

    def add(family: str, **configs: dict[str, Any]) -> None:
        old = families()[family]
        made = tuple(
            replace(old.presets[0], name=name, aliases=(), config=old.config.from_dict({"family": family, **config}))
            for name, config in configs.items()
        )
        monkeypatch.setitem(families(), family, replace(old, presets=made))
        zoo._registry._presets.cache_clear()

    yield add
    monkeypatch.undo()
    zoo._registry._presets.cache_clear()


def expected(name: str) -> np.ndarray:
    with np.load(DATA / "bare" / "expected.npz") as arrays:
        return np.asarray(arrays[f"{name}/last"])


def last(path: Path, utterance: dict[str, Any] = BARE["utterance"]) -> np.ndarray:
    wave = torch.from_numpy(generator.waveform(utterance))
    with torch.no_grad():
        return zoo.load(path)(wave[None]).hidden_states[-1][0].numpy()


def state(name: str) -> dict[str, Tensor]:
    return dict(torch.load(DATA / "bare" / name, weights_only=True))


# torchaudio's own


@pytest.mark.parametrize("name", sorted(BARE["files"]))
def test_values_are_the_references(name: str, register: Register, tmp_path: Path) -> None:
    facts = BARE["files"][name]
    register(facts["family"], tiny=facts["config"])
    source = DATA / "bare" / name
    assert convert.main([str(source), "--preset", "tiny", "-o", str(tmp_path / "out.safetensors")]) == 0
    for path in (source, tmp_path / "out.safetensors"):
        assert TOLERANCES["tiny"].excess(last(path), expected(name)) <= 1
        provenance = zoo.load(path).provenance
        assert (provenance["dialect"], provenance["keys"], provenance["preset"]) == ("state_dict", "torchaudio", "tiny")


def test_what_stands_around_the_encoder_of_a_pretraining_model(register: Register) -> None:
    facts = BARE["files"]["hubert_pretraining.pth"]
    register("hubert", tiny=facts["config"])
    model = zoo.load(DATA / "bare" / "hubert_pretraining.pth", heads=True)
    found, want = model.state_dict(), generator.tensors(facts["state"], facts["seed"], facts["scale"])
    for ours, theirs in (
        ("masked_spec_embed", "mask_generator.mask_embedding"),
        ("heads.label_embs_concat", "logit_generator.label_embeddings"),
        ("heads.final_proj.weight", "logit_generator.final_proj.weight"),
        ("heads.final_proj.bias", "logit_generator.final_proj.bias"),
        ("encoder.layer_norm.bias", "wav2vec2.encoder.transformer.layer_norm.bias"),
    ):
        assert torch.equal(found[ours], torch.from_numpy(want[theirs]))
    assert len(found) == len(want) and model.provenance["dropped"] == {}


# Folded weight norm


def fold(tensors: dict[str, Tensor]) -> str:
    """Replace the two tensors of a weight norm by the weight itself; gives its key."""
    g, v = sorted(key for key in tensors if CONV.search(key))
    key = CONV.sub(lambda match: f"pos_conv{match[1] or ''}.{match[2]}.weight", g)
    g_value, v_value = tensors.pop(g).double(), tensors.pop(v).double()
    tensors[key] = (g_value * v_value / v_value.norm(dim=(0, 1), keepdim=True)).float()
    return key


def folded(name: str, path: Path) -> str:
    """A copy of a genuine checkpoint with its weight norm folded; gives the key of the weight."""
    if name.startswith("hf/"):
        shutil.copytree(DATA / name, path)
        tensors = load_file(path / "model.safetensors")
        key = fold(tensors)
        save_file(tensors, path / "model.safetensors")
        return key
    file = torch.load(DATA / name, weights_only=True)
    place = "model" if "model" in file else "state_dict"
    file[place] = dict(file[place])
    key = fold(file[place])
    torch.save(file, path)
    return key


@pytest.mark.parametrize(
    "name", ["wavlm.pt", "unispeech_sat.pt", "hf/base_safetensors", "hf/ctc", "torchaudio_wavlm.pt"]
)
def test_a_folded_weight_norm_gives_the_same_values(name: str, tmp_path: Path) -> None:
    key = folded(name, tmp_path / "source")
    facts = FACTS[name]
    assert TOLERANCES["tiny"].excess(last(tmp_path / "source", facts["utterance"]), facts["expected"]["last"]) <= 1
    with open_conversion(tmp_path / "source") as conversion:
        filled = conversion.assignment.filled
        weight = conversion.reading.tensors[f"{key}[v]"].load()
        assert conversion.provenance()["unfolded"] == [key]
    assert filled["encoder.pos_conv_embed.conv.weight_g"] == f"{key}[g]"
    model = zoo.load(tmp_path / "source")
    conv = model.state_dict()["encoder.pos_conv_embed.conv.weight_v"]
    assert torch.equal(conv, weight)  # the weight as it was
    product = model.state_dict()["encoder.pos_conv_embed.conv.weight_g"] * conv / conv.norm(dim=(0, 1), keepdim=True)
    assert torch.allclose(product, weight, rtol=3e-7, atol=0)


def test_a_tap_of_zeros(register: Register, tmp_path: Path) -> None:
    register("wav2vec2", tiny=BARE["files"]["folded.pth"]["config"])
    tensors = state("folded.pth")
    tensors["encoder.transformer.pos_conv_embed.conv.weight"][:, :, 5] = 0
    torch.save(tensors, tmp_path / "source.pth")
    model = zoo.load(tmp_path / "source.pth")
    assert model.state_dict()["encoder.pos_conv_embed.conv.weight_g"][0, 0, 5] == 0
    assert np.isfinite(last(tmp_path / "source.pth")).all()


def test_half_precision_keeps_the_product(register: Register, tmp_path: Path) -> None:
    """A norm rounded to half precision would scale every weight of its tap."""
    register("wav2vec2", tiny=BARE["files"]["folded.pth"]["config"])
    torch.save({key: tensor.half() for key, tensor in state("folded.pth").items()}, tmp_path / "source.pth")
    found = zoo.load(tmp_path / "source.pth").state_dict()
    weight = state("folded.pth")["encoder.transformer.pos_conv_embed.conv.weight"].half().double()
    norm = weight.norm(dim=(0, 1), keepdim=True)
    assert torch.allclose(found["encoder.pos_conv_embed.conv.weight_g"].double(), norm, rtol=1e-7, atol=0)


# Prefixes and places


@pytest.mark.parametrize("place", [(), ("state_dict",), ("model",), ("model_state_dict",), ("model", "state_dict")])
@pytest.mark.parametrize("prefix", ["", "module.", "model.", "upstream.model.", "model.encoder.model.wav2vec2."])
def test_any_prefix_and_place(place: tuple[str, ...], prefix: str, register: Register, tmp_path: Path) -> None:
    register("wav2vec2", tiny=BARE["files"]["folded.pth"]["config"])
    content: Any = {prefix + key: tensor for key, tensor in state("folded.pth").items()}
    if prefix:
        beside = prefix.split(".")[0]
        content |= {f"{beside}_head.linear.weight": torch.ones(2), "temperature": torch.ones(())}
    for name in reversed(place):
        content = {name: content, "epoch": 3}
    torch.save(content, tmp_path / "source.ckpt")
    model = zoo.load(tmp_path / "source.ckpt")
    assert TOLERANCES["tiny"].excess(last(tmp_path / "source.ckpt"), expected("folded.pth")) <= 1
    whole = "" if prefix.endswith(".wav2vec2.") else prefix
    if whole:
        reason = f"it stands beside the model, which is under {whole!r}"
        assert model.provenance["dropped"] == {f"{beside}_head.linear.weight": reason, "temperature": reason}


def test_names_of_the_zoo_itself(register: Register, tmp_path: Path) -> None:
    """What `model.state_dict()` gives, saved by torch inside a Lightning module."""
    model = zoo.load(DATA / "wavlm.pt", heads=True)
    register("wavlm", tiny=model.config.to_dict())
    torch.save({"state_dict": {f"net.{k}": v for k, v in model.state_dict().items()}}, tmp_path / "source.ckpt")
    again = zoo.load(tmp_path / "source.ckpt", heads=True)
    assert again.config == model.config
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: {"state_dict": t, "model": t}, "it holds state dicts under state_dict and model; save a copy"),
        (
            lambda t: {**{f"student.{k}": v for k, v in t.items()}, **{f"teacher.{k}": v for k, v in t.items()}},
            r"it holds two encoders, under 'student\.' and 'teacher\.'",
        ),
        (
            lambda t: {**{f"net.{k}": v for k, v in t.items()}, **{f"other{i}": torch.ones(1) for i in range(300)}},
            "it holds 300 branches beside the model under 'net.'",
        ),
        (lambda t: {"epoch": 3}, "its layout is none that the zoo reads"),
        (lambda t: [1, 2], "it holds a list instead of a dictionary"),
        (lambda t: {**t, "more": "text"}, "something else than a tensor under 'more'"),
        (lambda t: {**t, "{rest}": torch.ones(1)}, "a tensor by the name '{rest}'"),
        (lambda t: {**t, "surprise.weight": torch.ones(2)}, "its tensors fit no model of the registry"),
        (lambda t: {"surprise.weight": torch.ones(2)}, "its tensors fit no model of the registry"),
        (lambda t: dict(list(t.items())[1:]), "its tensors fit no model of the registry"),
    ],
)
def test_what_cannot_be_read(change: Callable[[Any], Any], words: str, register: Register, tmp_path: Path) -> None:
    register("wav2vec2", tiny=BARE["files"]["folded.pth"]["config"])
    torch.save(change(state("folded.pth")), tmp_path / "source.pth")
    with pytest.raises(CheckpointError, match=words):
        zoo.load(tmp_path / "source.pth")


def test_models_that_fit_must_agree(register: Register, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = BARE["files"]["folded.pth"]["config"]
    torch.save(state("folded.pth"), source := tmp_path / "source.pth")
    register("wav2vec2", one=config, dropped={**config, "dropout": 0.3}, deeper={**config, "num_layers": 3})
    assert zoo.load(source).provenance["preset"] == "one"  # dropout is of training
    register("wav2vec2", one=config, other={**config, "dropout": 0.3}, heads={**config, "num_heads": 4})
    with pytest.raises(CheckpointError, match=r"differ in what tensors do not show: one, heads and 1 more; say which"):
        zoo.load(source)
    out = str(tmp_path / "out.safetensors")
    assert convert.main([str(source), "-o", out]) == 1
    assert "--preset NAME" in capsys.readouterr().err
    assert convert.main([str(source), "-o", out, "--preset", "heads"]) == 0
    assert zoo.load(out).config.num_heads == 4


@pytest.mark.parametrize(
    ("source", "preset", "words"),
    [
        ("bare/folded.pth", "hubert_base", "shapes that differ from the configuration"),
        ("bare/folded.pth", "tera", "no tensors by the names that any toolkit gives to those of tera"),
        ("hf/ctc", "hubert_base", "it has a configuration of its own; leave out --preset hubert_base"),
        ("s3prl/tera.ckpt", "hubert_base", "no tensors by the names that any toolkit gives to those of hubert_base"),
    ],
)
def test_a_preset_that_cannot_be(source: str, preset: str, words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        open_conversion(DATA / source, preset)


def test_a_preset_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UnknownModelError, match="did you mean hubert_base"):
        open_conversion(DATA / "bare" / "folded.pth", "hubert_bsae")
    assert convert.main([str(DATA / "bare" / "folded.pth"), "--preset", "hubert_bsae"]) == 1
    assert "there is no model named 'hubert_bsae'" in capsys.readouterr().err


def test_a_preset_stands_in_for_a_configuration_that_is_lost(register: Register, tmp_path: Path) -> None:
    """A fine-tuned fairseq model without `w2v_args` does not say how its encoder was built."""
    whole = zoo.load(DATA / "ctc_hubert.pt", heads=True)
    with open_conversion(DATA / "ctc_hubert.pt") as conversion:
        tensors = {key: tensor.load() for key, tensor in conversion.reading.tensors.items()}
    torch.save(
        {"args": None, "cfg": {"model": {"_name": "hubert_ctc"}, "task": {}}, "model": tensors}, tmp_path / "a.pt"
    )
    with pytest.raises(CheckpointError, match="w2v_args is missing"):
        zoo.load(tmp_path / "a.pt")
    register("hubert", tiny=whole.config.to_dict())
    assert convert.main([str(tmp_path / "a.pt"), "--preset", "tiny", "-o", str(tmp_path / "a.safetensors")]) == 0
    again = zoo.load(tmp_path / "a.safetensors", heads=True)
    assert again.config == whole.config and again.provenance["keys"] == "fairseq"
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in whole.state_dict().items())


# The released models


def released(name: str, dialect: str, prefix: str) -> dict[str, Lazy]:
    """Tensors of a released model's sizes by the first names that a toolkit has for them, without any bytes."""
    config: Any = zoo.info(name).config
    shapes = families()[config.family].shapes(config)
    for keys in dialects()[dialect].keys(config):
        found = {}
        for name, key in invert(keys.rows, shapes).items():
            stack, _, part = key.partition("[")  # of torchaudio's WavLM, three projections
            rows, *others = shapes[name]
            found[prefix + stack] = zeros(3 * rows if part else rows, *others)
        return found
    raise AssertionError(f"{dialect} has no names for {name}")


@pytest.mark.parametrize(
    ("name", "dialect", "found"),
    [
        ("wavlm_base_plus", "huggingface", "wavlm_base"),
        ("wavlm_large", "torchaudio", "wavlm_large"),
        ("wavlm_large", "microsoft", "wavlm_large"),
        ("data2vec_base_960", "fairseq", "data2vec_base_960"),
        ("distilhubert_base", "s3prl_distiller", "distilhubert_base"),
        ("wav2vec2_large_960", "fairseq", "wav2vec2_large_960"),
        ("hubert_base", "torchaudio", {"hubert_base", "unispeech_sat_base", "wav2vec2_base_960"}),
        ("unispeech_large_en", "fairseq", {"unispeech_large_en", "wav2vec2_large_ll60k"}),
        ("hubert_large_ll60k", "huggingface", {"hubert_large_ll60k", "unispeech_sat_large"}),
    ],
)
def test_released_models(name: str, dialect: str, found: str | set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """One architecture of its sizes: it is taken. Several: they are named, and one of them can be chosen."""
    source = Unwritten({"state_dict": released(name, dialect, "model.")})
    monkeypatch.setattr("zoo.converters.open_source", lambda path: source)
    monkeypatch.setattr("zoo.converters._check_size", lambda *_: None)  # there is no file
    if isinstance(found, str):
        assert open_conversion(Path()).provenance()["preset"] == found
        return
    with pytest.raises(CheckpointError) as refused:
        open_conversion(Path())
    assert found <= set(re.split(r"[ ,;]+", str(refused.value)))
    for preset in found:
        conversion = open_conversion(Path(), preset)
        assert conversion.config == zoo.info(preset).config
        assert conversion.provenance()["keys"] == dialect
