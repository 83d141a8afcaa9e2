"""The contract of a model: exact batches, lengths, layers, dtypes, presets, native files."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

import zoo
from tests.families import SPEECH_ENCODERS, WAVEFORM, blocks, tiny
from tests.golden import generator, spectral
from tests.golden.compare import TOLERANCES, Case, case_names
from zoo.errors import ConfigError, InputError, UnknownModelError

CASES = [name for name in (*case_names(), *spectral.model_names()) if name.endswith("lively")]


@pytest.fixture(scope="module", params=CASES)
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> zoo.models._family.Model:
    folder = tmp_path_factory.mktemp("checkpoint")
    if request.param in spectral.model_names():
        return zoo.load(spectral.checkpoint(spectral.read(request.param), folder))
    return zoo.load(Case.read(request.param).checkpoint(folder))


@pytest.fixture
def model(loaded: zoo.models._family.Model) -> zoo.models._family.Model:
    return copy.deepcopy(loaded)


def utterances(shortest: int = 400) -> list[Tensor]:
    """Real speech of very different lengths, one as short as can be."""
    places = ((30000, 6543), (60000, 4801), (90000, shortest), (20000, 2720), (120000, 719), (40000, 3333))
    spec = {"file": "2412-153948-0000.flac", "gain": 1.0, "offset": 0.01}
    return [torch.from_numpy(generator.waveform({**spec, "start": s, "samples": n})) for s, n in places]


def pad(waves: list[Tensor], size: int, value: float) -> Tensor:
    return torch.stack([torch.nn.functional.pad(wave, (0, size - len(wave)), value=value) for wave in waves])


@torch.no_grad()
def test_an_utterance_gives_the_same_numbers_in_any_batch(model: zoo.models._family.Model) -> None:
    waves = utterances(max(model.min_samples, 400))
    lengths = [len(wave) for wave in waves]
    alone = [model(wave[None]) for wave in waves]
    order = [3, 0, 5, 2, 4, 1]
    batches = {
        "list": (model(waves), range(6)),
        "nan": (model(pad(waves, 6543, float("nan")), lengths), range(6)),
        "huge": (model(pad(waves, 6543, 1e9), torch.tensor(lengths)), range(6)),
        "infinite": (model(pad(waves, 6543, float("inf")), lengths), range(6)),
        "more padding": (model(pad(waves, 9999, 0.5), lengths), range(6)),
        "other order": (model([waves[i] for i in order]), order),
        "pair": (model([waves[2], waves[0]]), [2, 0]),
    }
    for name, (out, items) in batches.items():
        for row, item in enumerate(items):
            want = alone[item]
            n = int(want.lengths[0])
            assert int(out.lengths[row]) == n == model.frame_count(lengths[item]), name
            for got, state in zip(out.hidden_states, want.hidden_states):
                assert TOLERANCES["batched"].excess(got[row, :n].numpy(), state[0].numpy()) <= 1, name
                assert not got[row, n:].any(), f"{name}: padded frames are not zero"


@pytest.mark.parametrize("name", WAVEFORM)
@torch.no_grad()
def test_every_short_length_gives_frames_or_one_clear_error(name: str) -> None:
    model = tiny(name, width=16, num_heads=1, ffn_width=4, num_layers=1)
    assert (model.min_samples, model.hop_length, model.sample_rate) == (400, 320, 16000)
    wave = torch.randn(2000)
    edges = {n + d for n in (0, 400, 720, 1040, 1360, 1680, 2000) for d in (-2, -1, 0, 1, 2)}
    for n in sorted({*range(0, 2001, 29), *edges} & {*range(2001)}):
        if n < 400:
            assert model.frame_count(n) == 0
            with pytest.raises(InputError, match=rf"waveform 0 has {n} samples; .* min_samples = 400"):
                model(wave[None, :n])
        else:
            out = model(wave[None, :n], layers=[0])
            assert out.hidden_states[0].shape[1] == model.frame_count(n) == int(out.lengths[0]) == (n - 400) // 320 + 1


def test_a_short_utterance_in_a_batch_is_named() -> None:
    model = zoo.build("hubert_base", num_layers=1)
    with pytest.raises(InputError, match="waveform 1 has 399 samples"):
        model(torch.zeros(2, 1000), [1000, 399])


@torch.no_grad()
def test_layers_are_chosen_in_order_and_nothing_above_is_computed(model: zoo.models._family.Model) -> None:
    wave = utterances()[1][None]
    full = model(wave).hidden_states
    top = len(full) - 1
    out = model(wave, layers=[top, 0, -2, 0])
    for got, index in zip(out.hidden_states, (top, 0, top - 1, 0)):
        assert torch.equal(got, full[index])
    ran = []
    handles = [layer.register_forward_hook(lambda *_: ran.append(1)) for layer in blocks(model)]
    assert torch.equal(model(wave, layers=[1]).hidden_states[0], full[1])
    assert len(ran) == 1
    assert torch.equal(model(wave, layers=(0,)).hidden_states[0], full[0])
    assert len(ran) == 1
    for handle in handles:
        handle.remove()


def test_gradients_flow_and_padding_gets_none(model: zoo.models._family.Model) -> None:
    waves = utterances()[:2]
    batch = pad(waves, 7000, float("nan")).requires_grad_()
    out = model(batch, [len(wave) for wave in waves])
    sum(state.square().sum() for state in out.hidden_states).backward()
    for row, wave in enumerate(waves):
        assert torch.isfinite(batch.grad[row]).all()
        assert batch.grad[row, : len(wave) - 400].any() and not batch.grad[row, len(wave) :].any()
    without = {name for name, p in model.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()}
    unused = {"masked_spec_embed"} & dict(model.named_parameters()).keys()
    if model.config.family == "wav2vec2_conformer":  # whose files have a positional convolution that nothing uses
        unused |= {f"encoder.pos_conv_embed.conv.{part}" for part in ("bias", "weight_g", "weight_v")}
    assert without == unused


@torch.no_grad()
def test_any_floating_dtype_goes_in_and_the_model_can_change_its_own(model: zoo.models._family.Model) -> None:
    wave = utterances()[0][None]
    want = model(wave).hidden_states[-1]
    assert (model(wave.double()).hidden_states[-1] - want).abs().max() <= 1e-5
    double = model.double()(wave).hidden_states[-1]
    assert double.dtype == torch.float64 and (double - want).abs().max() <= 1e-4
    half = model.bfloat16()(wave).hidden_states[-1]
    assert half.dtype == torch.bfloat16 and torch.isfinite(half).all()


def test_the_reference_mode_keeps_padding_semantics_of_the_toolkit(tmp_path: Path) -> None:
    checkpoint = Case.read("hubert_post_norm_usual").checkpoint(tmp_path)
    exact, reference = zoo.load(checkpoint), zoo.load(checkpoint, padding="reference")
    waves = utterances()[:2]
    with torch.no_grad():
        assert (exact(waves).hidden_states[0][1, :5] - reference(waves).hidden_states[0][1, :5]).abs().max() > 1e-3
        one = waves[0][None]
        assert torch.equal(exact(one).hidden_states[-1], reference(one).hidden_states[-1])
    with pytest.raises(InputError, match="padding='other' was asked for"):
        exact.padding = "other"


# --- presets -----------------------------------------------------------------------------------------------------


# Most presets differ in their weights alone: the first of each architecture is built in `make test`.
FIRST = {zoo.info(name).config: name for name in reversed(SPEECH_ENCODERS)}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in FIRST.values() else pytest.mark.slow) for n in SPEECH_ENCODERS]
)
def test_a_preset_has_the_parameters_its_releasers_count(name: str) -> None:
    with torch.device("meta"):
        model = zoo.build(name)
    counted = sum(p.numel() for key, p in model.named_parameters() if key != "masked_spec_embed")
    info = zoo.info(name)
    assert counted == info.parameters
    assert (info.layers, info.width) == (model.config.num_layers, model.config.width)
    hop = 160 if info.family in {"tera", "baseline"} else 320
    assert (info.hop, info.sample_rate) == (hop, 16000) == (model.hop_length, model.sample_rate)
    assert bool(info.sources) == (info.parameters > 0)
    assert info.licence and info.paper.startswith("https://arxiv.org/abs/")
    if info.family in {"tera", "baseline"}:
        return
    assert model.config.normalize_eps == 1e-5
    reshapes = {"hubert", "wavlm", "unispeech_sat"}
    assert model.config.padding_rule == ("reshape" if info.family in reshapes else "length")


def test_names_and_aliases() -> None:
    names = zoo.list_models()
    assert names == sorted(set(names))
    expected = {"hubert_base", "hubert_large_ll60k", "hubert_xlarge_ll60k", "wav2vec2_base_960", "xlsr_53",
                "wav2vec2_large_ll60k", "xls_r_300m", "xls_r_1b", "xls_r_2b", "wav2vec2_large_960",
                "wav2vec2_large_lv60_cv_swbd_fsh", "wav2vec2_large_voxpopuli_100k", "contentvec_km100"}  # fmt: skip
    assert expected <= set(names)
    assert zoo.info("hubert").name == "hubert_base"
    assert zoo.info("wav2vec2").name == "wav2vec2_base_960"
    assert zoo.list_models("*hubert_large*") == ["hubert_large_ft_960h", "hubert_large_ll60k"]
    assert zoo.list_models("hubert") == ["hubert"]
    every = [alias for name in names for alias in (name, *zoo.info(name).aliases)]
    assert len(every) == len(set(every)), "two models share a name"
    with pytest.raises(UnknownModelError, match="did you mean hubert_base"):
        zoo.info("hubert_bas")


def test_overrides_of_a_preset() -> None:
    model = zoo.build("hubert_base", num_layers=2, normalize=True)
    assert len(model.encoder.layers) == 2 and model.config.normalize and not model.training
    for overrides, words in (
        ({"layers": 2}, "does not know: layers"),
        ({"num_layers": 0}, "must lie from 1 to"),
        ({"num_layers": True}, "cannot be True"),
        ({"width": 100}, "cannot be divided"),
        ({"extractor_norm": "batch"}, "cannot be 'batch'"),
        ({"conv_layers": [[1, 2]]}, "cannot be"),
        ({"conv_layers": []}, "conv_layers"),
    ):
        with pytest.raises(ConfigError, match=words):
            zoo.build("hubert_base", **overrides)


def test_configurations_are_frozen_and_survive_json() -> None:
    for name in zoo.list_models():
        config = zoo.info(name).config
        assert type(config).from_dict(json.loads(json.dumps(config.to_dict()))) == config
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.width = 5


# --- native files ------------------------------------------------------------------------------------------------


def test_a_native_file_is_the_same_model_and_the_same_bytes(model: zoo.models._family.Model, tmp_path: Path) -> None:
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    zoo.save(model, first)
    loaded = zoo.load(first)
    zoo.save(loaded, second)
    assert first.read_bytes() == second.read_bytes()
    assert loaded.config == model.config and loaded.provenance == model.provenance and not loaded.training
    wave = utterances()[0][None]
    for a, b in zip(model(wave).hidden_states, loaded(wave).hidden_states):
        assert torch.equal(a, b)


def test_a_native_file_is_plain_safetensors(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    model = zoo.load(Case.read(CASES[0]).checkpoint(tmp_path), heads=True)
    zoo.save(model, tmp_path / "model.safetensors")
    tensors = load_file(tmp_path / "model.safetensors")
    state = model.state_dict()
    assert set(tensors) == set(state) and any(name.startswith("heads.") for name in tensors)
    assert all(torch.equal(tensors[name], state[name]) for name in state)


def test_saving_keeps_dtype_and_loading_gives_fp32(tmp_path: Path) -> None:
    model = zoo.build("hubert_base", num_layers=1).bfloat16()
    zoo.save(model, tmp_path / "half.safetensors")
    loaded = zoo.load(tmp_path / "half.safetensors")
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert torch.equal(loaded.masked_spec_embed, model.masked_spec_embed.float())
    assert zoo.load(tmp_path / "half.safetensors", dtype=torch.float16).masked_spec_embed.dtype == torch.float16


def test_a_failed_save_leaves_nothing(tmp_path: Path) -> None:
    model = zoo.build("hubert_base", num_layers=1)
    model.provenance = {"not json": object()}
    with pytest.raises(TypeError):
        zoo.save(model, tmp_path / "model.safetensors")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="does not exist"):
        zoo.save(model, tmp_path / "nowhere" / "model.safetensors")
    with pytest.raises(InputError, match="takes a model of the zoo"):
        zoo.save(torch.nn.Linear(2, 2), tmp_path / "model.safetensors")
