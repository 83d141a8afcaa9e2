"""wav2vec-U: conversion of genuine files, dictionaries, transcription, batches, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import zoo
from tests.golden import generator
from zoo import convert
from zoo.errors import CheckpointError, ConfigError, InputError
from zoo.models.wav2vec_u import SEGMENTATIONS, WavVecU, _segmentation

DATA = Path(__file__).parent / "data" / "wav2vec_u"
FACTS = json.loads((DATA / "recorded.json").read_text())
RECORDED = dict(np.load(DATA / "recorded.npz"))
FILES = ("dictconfig.pt", "plain.pt")
FEATURES = [torch.from_numpy(RECORDED[f"feat{i}"]) for i in range(3)]


def tiny(name: str = "wav2vec_u2", **overrides: Any) -> WavVecU:
    torch.manual_seed(0)
    small = {"input_dim": 6, "vocabulary": 9, "discriminator_dim": 4, "generator_dropout": 0.0}
    return zoo.build(name, **{**small, **overrides})


# --- conversion --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_a_genuine_file_gives_the_references_logits(name: str, tmp_path: Path) -> None:
    native = tmp_path / "native.safetensors"
    assert convert.main([str(DATA / name), "-o", str(native)]) == 0
    for source in (DATA / name, native):
        model = zoo.load(source)
        assert model.config.segmentation == "JOIN" and model.config.auxiliary_dim == 7 and model.symbols is None
        for i, item in enumerate(FEATURES):
            torch.testing.assert_close(
                model(item[None]).logits[0].detach(), torch.from_numpy(RECORDED[f"logits{i}"]), rtol=1.3e-6, atol=1e-5
            )


def test_every_tensor_of_a_file_is_there_under_its_own_name() -> None:
    made = generator.tensors(FACTS["state"], FACTS["seed"], FACTS["scale"])
    for name in FILES:
        model = zoo.load(DATA / name)
        state = model.state_dict()
        assert state.keys() == made.keys() and model.heads is None
        assert all(torch.equal(state[key], torch.from_numpy(value)) for key, value in made.items())
        assert model.provenance["config"]["model"]["mmi_weight"] == 0.5  # what is of training alone is kept there


def test_a_native_file_is_the_same_model_and_the_same_bytes(tmp_path: Path) -> None:
    model = zoo.load(DATA / "plain.pt")
    model.symbols = FACTS["symbols"]
    zoo.save(model, tmp_path / "a.safetensors")
    loaded = zoo.load(tmp_path / "a.safetensors")
    zoo.save(loaded, tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert loaded.config == model.config and loaded.symbols == tuple(FACTS["symbols"])


def checkpoint(path: Path, model: dict[str, Any], tensors: dict[str, Any] | None = None) -> Path:
    made = generator.tensors(FACTS["state"], FACTS["seed"], FACTS["scale"])
    state = {name: torch.from_numpy(value) for name, value in made.items()} | (tensors or {})
    fields = {**zoo.load(DATA / "plain.pt").provenance["config"]["model"], **model}
    content = {"args": None, "cfg": {"model": fields, "task": {}}, "extra_state": {}}
    torch.save({**content, "model": {name: value for name, value in state.items() if value is not None}}, path)
    return path


@pytest.mark.parametrize(
    ("model", "tensors", "words"),
    [
        ({}, {"generator.proj.1.weight": None}, "no generator.proj.1.weight"),
        ({}, {"generator.proj.1.weight": torch.ones(11, 8)}, "no generator.proj.1.weight of three axes"),
        ({}, {"decoder.weight": None}, "nothing fills: decoder.weight"),
        ({}, {"surprise.weight": torch.ones(2)}, "no place for: surprise.weight"),
        ({}, {"generator.extra": torch.ones(2)}, "no place for: generator.extra"),
        ({"mmi_weight": 0.0}, {}, "no place for: decoder.weight"),
        ({"input_dim": 9}, {}, "shapes that differ"),
        ({"generator_kernel": 10**9}, {}, "must lie from 1 to"),
        ({"generator_kernel": "9"}, {}, "'generator_kernel' cannot be '9'"),
        ({"segmentation": {"type": "KMEANS"}}, {}, "'segmentation' cannot be 'KMEANS'"),
        ({"segmentation": "JOIN"}, {}, "expected a section with a type"),
        ({"segmentation": {"type": "JOIN", "subsample_rate": 0.0}}, {}, "subsample_rate is 0.0"),
        ({"mmi_weight": "much"}, {}, "mmi_weight is 'much'"),
    ],
)
def test_files_that_cannot_be_right(model: dict[str, Any], tensors: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=words):
        zoo.load(checkpoint(tmp_path / "source.pt", model, tensors))


def test_a_member_of_an_enum_is_read_however_it_is_stored() -> None:
    for number, name in enumerate(SEGMENTATIONS, 1):
        for value in (name, f"SegmentationType.{name}", number, {"__class__": "x", "args": [number]}):
            assert _segmentation(value) == name


# --- dictionaries and transcription ------------------------------------------------------------------------------


def test_a_dictionary_at_conversion_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    native = tmp_path / "native.safetensors"
    command = [str(DATA / "plain.pt"), "-o", str(native), "--dictionary", str(DATA / "dict.txt")]
    assert convert.main(command) == 0
    model = zoo.load(native)
    assert model.symbols == tuple(FACTS["symbols"])
    assert model.transcribe(FEATURES) == zoo.load(DATA / "plain.pt").transcribe(FEATURES, symbols=FACTS["symbols"])
    assert any(model.transcribe(FEATURES))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"AA 3\nB 2\n", "6 symbols were given for a model with 11 outputs"),
        (b"AA\n", "line 1 is no symbol and its count"),
        (b"AA 3\nAA 2\n", "holds 'AA' twice, the second time in line 2"),
        (b"<s> 3\n", "holds '<s>' twice"),
        (b"\xff\xfe", "it is not UTF-8 text"),
        (None, "cannot be used: No such file"),
    ],
)
def test_dictionaries_that_do_not_fit(
    text: bytes | None, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if text is not None:
        (tmp_path / "dict.txt").write_bytes(text)
    out = tmp_path / "native.safetensors"
    assert convert.main([str(DATA / "plain.pt"), "-o", str(out), "--dictionary", str(tmp_path / "dict.txt")]) == 1
    message = capsys.readouterr().err
    assert words in message and message.count("\n") == 1 and not out.exists()


def test_a_dictionary_for_another_family_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = DATA.parent / "e3_resolved.pt"
    command = [str(source), "-o", str(tmp_path / "out"), "--dictionary", str(DATA / "dict.txt")]
    assert convert.main(command) == 1
    assert "holds a hubert model without one" in capsys.readouterr().err


def test_only_transcription_needs_a_dictionary() -> None:
    model = zoo.load(DATA / "plain.pt")
    assert model(FEATURES).logits.shape == (3, 14, 11)
    with pytest.raises(InputError, match="this checkpoint has no dictionary; give symbols=, or convert"):
        model.transcribe(FEATURES)
    for symbols in (FACTS["symbols"][4:], "ABCDEFGHIJK", list(range(11))):
        with pytest.raises(InputError, match=r"symbols (were given|must be)"):
            model.transcribe(FEATURES, symbols=symbols)
        with pytest.raises(InputError, match=r"symbols (were given|must be)"):
            model.symbols = symbols
    model.symbols = FACTS["symbols"]
    texts = model.transcribe(FEATURES)
    assert len(texts) == 3 and all(phone in FACTS["symbols"][4:-1] for text in texts for phone in text.split())


@pytest.mark.parametrize("segmentation", ["NONE", "UNIFORM_RANDOM", "UNIFORM_RANDOM_JOIN", "JOIN"])
def test_an_utterance_is_transcribed_alike_in_any_batch(segmentation: str) -> None:
    model = tiny("wav2vec_u", segmentation=segmentation, symbols=[f"s{i}" for i in range(9)])
    items = [torch.randn(n, 6) for n in (31, 5, 1, 18)]
    batch = torch.nn.utils.rnn.pad_sequence(items, batch_first=True, padding_value=float("nan"))
    alone = [model.transcribe(item[None])[0] for item in items]
    assert model.transcribe(batch, [31, 5, 1, 18]) == alone == model.transcribe(items) and len(set(alone)) > 1
    model.padding = "reference"
    assert len(model.transcribe(items)) == 4


# --- batches -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["wav2vec_u", "wav2vec_u2"])
@torch.no_grad()
def test_an_utterance_gives_the_same_numbers_in_any_batch(name: str) -> None:
    model = tiny(name)
    if model.generator.bn is not None:
        model.generator.bn.running_mean.uniform_(-1, 1)
        model.generator.bn.bias.uniform_(-1, 1)
    for size in (1, 2, 3, 4, 5, 17, 29):
        items = [torch.randn(n, 6) for n in (size, 30, 1 + size // 2)]
        lengths = [len(item) for item in items]
        batch = torch.nn.utils.rnn.pad_sequence(items, batch_first=True, padding_value=float("nan"))
        more = torch.nn.functional.pad(batch, (0, 0, 0, 7), value=float("inf"))
        for out in (model(batch, lengths), model(more, torch.tensor(lengths)), model(items)):
            assert out.hidden_states == ()
            for i, item in enumerate(items):
                alone = model(item[None]).logits[0]
                n = model.frame_count(len(item))
                assert int(out.lengths[i]) == n == len(alone)
                assert torch.equal(out.logits[i, :n], alone) and not out.logits[i, n:].any()


def test_frames_of_every_configuration() -> None:
    for kernel in (1, 2, 4, 9):
        for stride in (1, 2, 3):
            for pad in (-1, 0, 1):
                for dilation in (1, 2):
                    shape = {"generator_kernel": kernel, "generator_stride": stride, "generator_pad": pad}
                    model = tiny(**shape, generator_dilation=dilation)
                    assert model.frame_count(model.min_samples - 1) == 0 and model.hop_length == stride
                    for n in range(model.min_samples, model.min_samples + 2 * stride + 1):
                        assert model(torch.zeros(1, n, 6)).logits.shape[1] == model.frame_count(n) > 0


def test_gradients_flow_and_padding_gets_none() -> None:
    model = tiny()
    x = torch.full((2, 20, 6), float("nan"))
    x[0], x[1, :11] = torch.randn(20, 6), torch.randn(11, 6)
    x.requires_grad_()
    model(x, [20, 11]).logits.square().sum().backward()
    assert torch.isfinite(x.grad).all() and x.grad[1, :11].any() and not x.grad[1, 11:].any()
    assert all(p.grad.any() for p in model.generator.parameters())


def test_batch_norm_learns_from_valid_frames_only() -> None:
    model = tiny().train()
    items = [torch.randn(20, 6), torch.randn(7, 6) + 3]
    model(torch.nn.utils.rnn.pad_sequence(items, batch_first=True, padding_value=1e6), [20, 7])
    torch.testing.assert_close(model.generator.bn.running_mean, 0.1 * torch.cat(items).mean(0))


def test_dtypes() -> None:
    model = tiny()
    x = torch.randn(2, 9, 6)
    want = model(x).logits
    assert torch.equal(model(x.double()).logits, want)
    for dtype in (torch.bfloat16, torch.float16):
        got = model.to(dtype)(x).logits
        assert got.dtype == dtype and torch.isfinite(got).all()


# --- presets and what is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["wav2vec_u", "wav2vec_u2"])
def test_presets(name: str) -> None:
    with torch.device("meta"):
        model = zoo.build(name)
    info = zoo.info(name)
    assert info.parameters == sum(p.numel() for p in model.parameters())
    assert (info.hop, info.width, info.layers) == (model.hop_length, model.config.input_dim, 0)
    assert info.sources == () and name in zoo.list_models() and zoo.info(info.aliases[0]) == info
    assert type(info.config).from_dict(json.loads(json.dumps(info.config.to_dict()))) == info.config
    with pytest.raises(CheckpointError, match=rf"no weights of '{name}' were released; zoo.build\('{name}'\)"):
        zoo.load(name)


def test_parameter_names_are_fairseqs() -> None:
    inner = {f"discriminator.net.{i}.{leaf}" for i in ("0", "3.0", "4") for leaf in ("weight", "bias")}
    assert set(tiny("wav2vec_u").state_dict()) == inner | {"generator.proj.1.weight"}
    norm = {f"generator.bn.{leaf}" for leaf in ("running_mean", "running_var", "num_batches_tracked")}
    more = {
        f"{part}.{leaf}" for part in ("generator.bn", "generator.in_proj", "decoder") for leaf in ("weight", "bias")
    }
    assert set(tiny().state_dict()) == inner | {"generator.proj.1.weight"} | norm | more


@pytest.mark.parametrize(
    ("features", "lengths", "words"),
    [
        (torch.zeros(1, 9, 7), None, "features have 7 values a frame; this model takes 6"),
        ([torch.zeros(9, 6), torch.zeros(9, 5)], None, "features have 5 values a frame; this model takes 6"),
        (torch.zeros(9, 6), None, r"must have shape \(batch, frames, 6\); found \(9, 6\)"),
        (torch.zeros(0, 9, 6), None, r"must have shape \(batch, frames, 6\)"),
        ([], None, "an empty list"),
        ([torch.zeros(9)], None, "something else at index 0"),
        ([torch.zeros(9, 6)], [9], "a list carries its own lengths"),
        (torch.zeros(1, 9, 6, dtype=torch.long), None, "must be floating point"),
        (torch.zeros(2, 9, 6), [9], "found 1 for 2 of them"),
        (torch.zeros(1, 9, 6), [10], "the batch is only 9 frames long"),
        (torch.zeros(1, 9, 6), [0], "utterance 0 has 0 frames of features; this model needs at least min_samples = 1"),
        (torch.zeros(1, 9, 6), [2.5], "lengths must be integers"),
        (torch.zeros(1, 9, 6), torch.tensor([2.5]), "1-D tensor of integers"),
    ],
)
def test_features_that_the_model_cannot_take(features: Any, lengths: Any, words: str) -> None:
    model = tiny(symbols=[f"s{i}" for i in range(9)])
    with pytest.raises(InputError, match=words):
        model(features, lengths)
    with pytest.raises(InputError, match=words):
        model.transcribe(features, lengths)


def test_layers_and_extraction_are_refused() -> None:
    with pytest.raises(InputError, match="has logits and no hidden states"):
        tiny()(torch.zeros(1, 9, 6), layers=[0])
    with pytest.raises(InputError, match="a wav2vec_u model takes features of another model"):
        zoo.extract(tiny(), [torch.zeros(1000)])


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"vocabulary": 3}, "must lie from 4 to"),
        ({"generator_residual": False}, "reads what generator_residual=True computes"),
        ({"subsample_rate": 1.5}, "above 0 and up to 1"),
        ({"symbols": ["a"]}, "1 symbols were given for a model with 9 outputs"),
        ({"discriminator_norm": "layer"}, "cannot be 'layer'"),
    ],
)
def test_configurations_that_cannot_be(overrides: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        tiny(**overrides)
