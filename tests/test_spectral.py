"""Spectral front ends and the models on them: gradients, exactness, lengths, chunks, silence, s3prl's files."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError

import zoo
from tests.families import BASELINES, SPECTRAL, tiny
from tests.golden import generator
from tests.golden import spectral as golden
from tests.golden.compare import TOLERANCES
from zoo import convert
from zoo.converters import open_conversion
from zoo.errors import CheckpointError, ConfigError, InputError
from zoo.layers import spectral
from zoo.layers.lengths import frame_mask

DATA = Path(__file__).parent / "data" / "s3prl"
FACTS = json.loads((DATA / "expected.json").read_text())
WIDTHS = {"fbank": 240, "fbank_no_cmvn": 240, "mfcc": 39, "mel": 80, "linear": 201, "spectrogram": 257}
KINDS = (*BASELINES, *SPECTRAL)


def waves(*sizes: int) -> list[Tensor]:
    spec = {"file": "2412-153948-0000.flac", "gain": 1.0, "offset": 0.01}
    return [torch.from_numpy(generator.waveform({**spec, "start": 30000 + 1000 * i, "samples": n}))
            for i, n in enumerate(sizes)]  # fmt: skip


KALDI = {"size": 16, "hop": 8}
# name -> (function of a padded batch (B, S) or (B, T, F) and true lengths, what its length becomes)
TRANSFORMS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Callable[[int], int]]] = {
    "power": (lambda x, n: spectral.power_spectrum(x, n, 16, 8, 16), lambda n: n // 8 + 1),
    "log_mel": (lambda x, n: spectral.log_mel(x.square() + 0.1, 2, 8000), lambda n: n),
    "fbank": (lambda x, n: spectral.kaldi_fbank(x, bands=3, sample_rate=8000, **KALDI), lambda n: n // 8 - 1),
    "mfcc": (lambda x, n: spectral.kaldi_mfcc(x, bands=3, cepstra=2, sample_rate=8000, **KALDI), lambda n: n // 8 - 1),
    "spectrogram": (lambda x, n: spectral.kaldi_spectrogram(x, **KALDI), lambda n: n // 8 - 1),
    "level": (lambda x, n: spectral.normalise_level(x, n, -25.0), lambda n: n),
    "deltas": (lambda x, n: spectral.deltas(x, n, 5), lambda n: n),
    "with_deltas": (lambda x, n: spectral.with_deltas(x, n, 2, 5), lambda n: n),
    "cmvn": (lambda x, n: spectral.normalise_frames(x, n), lambda n: n),
}


def padded(name: str) -> tuple[Tensor, Tensor]:
    """What a transform takes in double precision, zero in the padding, and true lengths."""
    frames = name in ("log_mel", "deltas", "with_deltas", "cmvn")
    n = torch.tensor([7, 4] if frames else [46, 33])
    x = torch.randn(2, 7, 5, dtype=torch.float64) if frames else torch.randn(2, 46, dtype=torch.float64)
    mask = frame_mask(n, x.shape[1])
    return x.masked_fill(mask[:, :, None] if frames else mask, 0.0), n


@pytest.mark.parametrize("name", TRANSFORMS)
def test_gradients(name: str) -> None:
    x, n = padded(name)
    function, _ = TRANSFORMS[name]
    assert torch.autograd.gradcheck(lambda y: function(y, n), (x.requires_grad_(),))


@pytest.mark.parametrize("name", ["level", "cmvn"])
def test_a_statistic_without_gradient_is_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    above_zero = spectral.above_zero
    monkeypatch.setattr(spectral, "above_zero", lambda x, eps=1e-10: above_zero(x, eps).detach())
    with pytest.raises(GradcheckError):
        test_gradients(name)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_batch_gives_what_each_item_gives_alone(name: str) -> None:
    x, n = padded(name)
    function, count = TRANSFORMS[name]
    batch = function(x, n)
    for item, row, length in zip(x, batch, n.tolist()):
        alone = function(item[None, :length], torch.tensor([length]))[0]
        assert len(alone) == count(length)
        torch.testing.assert_close(row[: len(alone)], alone)
    with pytest.raises(AssertionError):  # it is another one
        torch.testing.assert_close(batch[0, : len(alone)], alone)


@pytest.mark.parametrize(
    ("size", "hop", "samples"), [(400, 160, 16000), (600, 100, 9999), (16, 5, 200), (400, 160, 400)]
)
@pytest.mark.parametrize("name", ["fbank", "mfcc", "spectrogram", "power"])
def test_blocks_of_frames_change_nothing(
    name: str, size: int, hop: int, samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does it matter whether anything is differentiated, or what is behind a frame."""
    wave = torch.randn(3, samples, dtype=torch.float64)
    lengths = torch.full((3,), samples)
    function = {
        "fbank": lambda w: spectral.kaldi_fbank(w, bands=20, size=size, hop=hop, sample_rate=16000),
        "mfcc": lambda w: spectral.kaldi_mfcc(w, bands=20, cepstra=7, size=size, hop=hop, sample_rate=16000),
        "spectrogram": lambda w: spectral.kaldi_spectrogram(w, size=size, hop=hop),
        "power": lambda w: spectral.power_spectrum(w, lengths, size, hop, size),
    }[name]
    want = function(wave)
    total = samples // hop + 1 if name == "power" else (samples - size) // hop + 1
    assert want.shape[:2] == (3, total)
    for frames in (1, 5, 50):
        monkeypatch.setattr(spectral, "BLOCK_FRAMES", frames)
        torch.testing.assert_close(function(wave), want)
        torch.testing.assert_close(function(wave.clone().requires_grad_()), want)
    if name != "power":
        alone = [function(wave[:, i * hop : i * hop + size]) for i in range(total)]
        torch.testing.assert_close(torch.cat(alone, 1), want)


@pytest.mark.parametrize(
    ("fft", "bands", "rate"), [(512, 80, 16000), (512, 23, 16000), (256, 40, 8000), (2048, 128, 44100)]
)
def test_the_bins_left_out_weigh_nothing(fft: int, bands: int, rate: int) -> None:
    filters = spectral.kaldi_mel_filters(fft, bands, rate)
    for first in range(bands):
        for last in range(first + 1, min(first + 20, bands) + 1):
            low, high = spectral.kaldi_mel_reach(fft, bands, rate, first, last)
            assert 0 <= low < high <= fft
            assert not filters[:low, first:last].any() and not filters[high:, first:last].any()


class Kaldi(torch.nn.Module):
    """Every Kaldi feature, for tracing."""

    def forward(self, wave: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        frames = {"size": 400, "hop": 160}
        fbank = spectral.kaldi_fbank(wave, bands=80, sample_rate=16000, **frames)
        mfcc = spectral.kaldi_mfcc(wave, bands=23, cepstra=13, sample_rate=16000, **frames)
        return fbank, mfcc, spectral.kaldi_spectrogram(wave, **frames)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", ["export", "compile"])
def test_one_graph_for_any_batch_and_length(how: str) -> None:
    torch.manual_seed(0)
    if how == "export":
        sizes = {0: torch.export.Dim("batch", min=1, max=64), 1: torch.export.Dim("samples", min=560, max=1 << 20)}
        traced = torch.export.export(Kaldi(), (torch.randn(2, 8000),), dynamic_shapes=(sizes,)).module()
    else:
        torch.compiler.reset()
        traced = torch.compile(Kaldi(), fullgraph=True, dynamic=True, backend="eager")
    for shape in ((2, 8000), (5, 5001), (1, 1234)):
        wave = torch.randn(shape)
        torch.testing.assert_close(traced(wave), Kaldi()(wave))


@pytest.mark.parametrize("padding", ["exact", "reference"])
@pytest.mark.parametrize("name", KINDS)
def test_an_utterance_gives_the_same_in_any_batch(name: str, padding: str) -> None:
    model = tiny(name)
    items = waves(6543, 4801, 720, 3200, 9999)
    lengths = [len(w) for w in items]
    dirty = torch.nn.utils.rnn.pad_sequence(items, batch_first=True, padding_value=float("nan"))
    dirty = torch.nn.functional.pad(dirty, (0, 1234), value=float("nan")).requires_grad_()
    model.padding = padding
    out = model(dirty, lengths)
    assert out.lengths.tolist() == [model.frame_count(n) for n in lengths]
    if padding == "exact":
        for i, wave in enumerate(items):
            alone = model(wave[None])
            n = model.frame_count(len(wave))
            for got, want in zip(out.hidden_states, alone.hidden_states):
                assert want.shape[1] == n
                assert (got[i, :n] - want[0]).abs().max() <= 2e-5 and not got[i, n:].any()
    sum(state.square().sum() for state in out.hidden_states).backward()
    assert torch.isfinite(dirty.grad).all() and dirty.grad[4, :9999].any() and not dirty.grad[0, 6543:].any()


@pytest.mark.parametrize("name", KINDS)
@torch.no_grad()
def test_every_short_length_gives_frames_or_one_clear_error(name: str) -> None:
    model = tiny(name)
    wave = waves(1000)[0][None]
    for n in (0, 1, model.min_samples - 1):
        assert model.frame_count(n) == 0
        with pytest.raises(InputError, match=rf"waveform 0 has {n} samples; .* min_samples = {model.min_samples}"):
            model(wave[:, :n])
    least = model.min_samples
    for n in (*range(least, least + 170, 13), 319, 320, 559, 560, 719, 720, 799, 800, 801):
        if n < least:
            continue
        out = model(wave[:, :n])
        assert out.hidden_states[-1].shape[1] == model.frame_count(n) == int(out.lengths[0]) > 0
        assert all(torch.isfinite(state).all() for state in out.hidden_states)


@pytest.mark.parametrize("name", KINDS)
def test_silence_is_finite_forward_and_backward(name: str) -> None:
    model = tiny(name)
    wave = torch.zeros(2, 4000, requires_grad=True)
    states = model(wave, [4000, 2000]).hidden_states
    sum(state.square().sum() for state in states).backward()
    assert all(torch.isfinite(state).all() for state in states) and torch.isfinite(wave.grad).all()


@pytest.mark.parametrize("name", BASELINES)
@torch.no_grad()
def test_baselines_need_no_file(name: str, tmp_path: Path) -> None:
    model = zoo.load(name)
    wave = waves(4000)[0]
    out = model([wave])
    assert len(out.hidden_states) == 1 and out.hidden_states[0].shape == (1, model.frame_count(4000), WIDTHS[name])
    info = zoo.info(name)
    assert (info.parameters, info.layers, info.width, info.hop, info.sources) == (0, 0, WIDTHS[name], 160, ())
    zoo.save(model, tmp_path / "model.safetensors")
    again = zoo.load(tmp_path / "model.safetensors")
    assert torch.equal(again([wave]).hidden_states[0], out.hidden_states[0])
    assert zoo.load(name, dtype=torch.float64)([wave]).hidden_states[0].dtype == torch.float64
    half = zoo.load(name).bfloat16()([wave.half()]).hidden_states[0]
    assert half.dtype == torch.bfloat16 and torch.isfinite(half).all()
    with pytest.raises(InputError, match="indices from -1 to 0"):
        model([wave], layers=[1])
    assert zoo.info("baseline").name == "fbank"


@torch.no_grad()
def test_layers_and_shared_blocks() -> None:
    model = tiny("audio_albert", num_layers=4)
    assert len(model.encoder.layer) == 1 and model.num_layers == 4
    full = model(waves(4000)).hidden_states
    assert len(full) == 5
    ran = []
    model.encoder.layer[0].register_forward_hook(lambda *_: ran.append(1))
    got = model(waves(4000), layers=[2, 0]).hidden_states
    assert len(ran) == 2 and torch.equal(got[0], full[2]) and torch.equal(got[1], full[0])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"delta_window": 4}, "must be odd"),
        ({"mel_bands": 0}, "must lie from 1 to"),
        ({"frame_length_ms": 1.0, "sample_rate": 1000}, "even number of samples"),
        ({"features": "fbank"}, "know neither level_db"),
        ({"num_heads": 5}, "cannot be divided"),
        ({"activation": "tanh"}, "cannot be 'tanh'"),
    ],
)
def test_configurations_that_cannot_be_right(fields: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        zoo.build("tera", **fields)


# --- s3prl's files -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FACTS["files"])
@torch.no_grad()
def test_a_genuine_file_gives_what_s3prl_computes(name: str, tmp_path: Path) -> None:
    facts = FACTS["files"][name]
    native = tmp_path / "native.safetensors"
    assert convert.main([str(DATA / name), "-o", str(native)]) == 0
    wave = torch.from_numpy(generator.waveform(FACTS["utterance"]))
    with np.load(DATA / "expected.npz") as arrays:
        want = arrays[f"{name}/last"]
    for source in (DATA / name, native):
        model = zoo.load(source, heads=True)
        assert model.config.family == "tera"
        assert TOLERANCES["tiny"].excess(model(wave[None]).hidden_states[-1][0].numpy(), want) <= 1
    state, head = golden.states({**facts, "case": name}, FACTS["seed"], FACTS["scale"])
    found = model.state_dict()
    assert {key for key in found if key.startswith("heads.")} == {f"heads.{key}" for key in head}
    for key, value in head.items():
        assert torch.equal(found[f"heads.{key}"], value)
    for key in found.keys() - {f"heads.{key}" for key in head}:
        assert torch.equal(found[key], state[key]), key
    with open_conversion(DATA / name) as conversion:
        dropped = conversion.assignment.dropped
    assert len(dropped) == (2 * 16 if name.startswith("audio_albert") else 0)


def changed(path: Path, **changes: object) -> Path:
    """The golden case `tera_usual` as a file, with other top-level entries (None: left out)."""
    case = golden.read("tera_usual")
    state, head = golden.states(case.facts, 1, "usual")
    content = {
        "Optimizer": {}, "Step": 1, "Args": Namespace(seed=1), "Config": {"runner": {}},
        "Upstream_Config": case.facts["config"], "Transformer": state, "SpecHead": head, **changes,
    }  # fmt: skip
    torch.save({key: value for key, value in content.items() if value is not None}, path)
    return path


def configuration(**sections: dict[str, object]) -> dict[str, object]:
    """The configuration of `tera_usual` with changes to its sections."""
    found = golden.read("tera_usual").facts["config"]
    return {**found, **{name: {**found[name], **fields} for name, fields in sections.items()}}


def without(section: str) -> dict[str, object]:
    return {key: value for key, value in configuration().items() if key != section}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"Upstream_Config": without("audio")}, "no audio section, so its features were extracted beforehand"),
        ({"Upstream_Config": None, "Config": None, "Settings": {"Config": {}, "Paras": {}}}, "layout before 2020"),
        ({"Upstream_Config": None}, "neither Config nor Upstream_Config has a transformer section"),
        ({"Upstream_Config": without("task")}, "no task.sequence_length"),
        ({"Upstream_Config": configuration(audio={"n_freq": 257})}, "n_freq is 257"),
        ({"Upstream_Config": configuration(audio={"input": {"feat_type": "wav"}})}, "feat_type is 'wav'"),
        ({"Upstream_Config": configuration(audio={"kaldi": {"feat_type": "pitch"}})}, "feat_type is 'pitch'"),
        (
            {"Upstream_Config": configuration(audio={"kaldi": {"feat_type": "fbank", "fbank": {"dither": 1.0}}})},
            "audio.kaldi.fbank.dither is 1.0",
        ),
        ({"Upstream_Config": configuration(transformer={"layer_norm_eps": "small"})}, "expected a number"),
        ({"Upstream_Config": configuration(transformer={"num_hidden_layers": 3})}, "parameters that nothing fills"),
        ({"Transformer": {"x": "text"}}, "something else than a tensor under 'x'"),
    ],
)
def test_files_that_cannot_be_used(changes: dict[str, object], words: str, tmp_path: Path) -> None:
    path = changed(tmp_path / "file.ckpt", **changes)
    with pytest.raises(CheckpointError, match=words) as caught:
        zoo.load(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_both_layouts_old_names_and_text_numbers_are_one_model(tmp_path: Path) -> None:
    want = zoo.load(changed(tmp_path / "new.ckpt"))
    case = golden.read("tera_usual")
    state, _ = golden.states(case.facts, 1, "usual")
    old = {
        key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for key, value in state.items()
    }
    legacy = configuration(transformer={"layer_norm_eps": "1.e-12"})
    found = zoo.load(changed(tmp_path / "old.ckpt", Config=legacy, Upstream_Config=None, Transformer=old))
    assert found.config == want.config
    assert all(torch.equal(a, b) for a, b in zip(found.state_dict().values(), want.state_dict().values()))
