"""MTEB's encoder protocol, by what mteb 2.26.24 asks for; scripts/live_audio_benchmarks.py asks mteb itself."""

from __future__ import annotations

import inspect
import sys
from enum import Enum
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soxr
import torch
from torch import Tensor

import zoo
from tests.families import tiny
from zoo.benchmark import hear_api
from zoo.compat.mteb import Encoder
from zoo.errors import InputError

pytestmark = pytest.mark.usefixtures("one_thread")
ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "examples" / "hubert_tiny.pt"
# EncoderProtocol of mteb/models/models_protocols.py; isinstance asks for these names.
PROTOCOL = {
    "__init__": ["model_name", "revision", "device", "kwargs"],
    "encode": ["inputs", "task_metadata", "hf_split", "hf_subset", "prompt_type", "kwargs"],
    "similarity": ["embeddings1", "embeddings2"],
    "similarity_pairwise": ["embeddings1", "embeddings2"],
}
NOT_OURS = {"index", "search", "predict"}  # by which it would be taken for a SearchProtocol or a CrossEncoderProtocol
TASK: dict[str, Any] = {"task_metadata": SimpleNamespace(name="ESC50"), "hf_split": "test", "hf_subset": "default"}


def wave(seconds: float, rate: int = 16_000, seed: int = 0) -> np.ndarray[Any, Any]:
    return 0.1 * np.random.default_rng(seed).standard_normal(int(seconds * rate))


def clip(array: Any, rate: int = 16_000) -> dict[str, Any]:
    return {"array": array, "sampling_rate": rate}


def encode(encoder: Encoder, *clips: dict[str, Any], **options: Any) -> Tensor:
    return torch.from_numpy(encoder.encode([{"audio": list(clips)}], **TASK, **options))


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(str(TINY), device="cpu")


def test_it_has_what_the_protocol_asks_for(encoder: Encoder) -> None:
    for name, expected in PROTOCOL.items():
        theirs = [parameter for parameter in expected if parameter != "kwargs"]
        found = list(inspect.signature(getattr(encoder, name)).parameters.values())
        assert [parameter.name for parameter in found][: len(theirs)] == theirs
        assert found[-1].kind is inspect.Parameter.VAR_KEYWORD or "kwargs" not in expected
    assert hasattr(Encoder, "mteb_model_meta") and not NOT_OURS & set(dir(encoder))


@pytest.mark.parametrize("name", ["hubert_base", "wavlm_large", "data2vec2_base_960", "tera", "fbank"])
def test_an_embedding_is_the_mean_of_the_clip_alone(name: str, tmp_path: Path) -> None:
    """Whatever its batch, also of a clip too short for a frame, and of one that is cut into chunks."""
    model = tiny(name).eval()
    zoo.save(model, tmp_path / "model.safetensors")
    encoder = Encoder(str(tmp_path / "model.safetensors"), device="cpu", chunk_s=2, layer=[0, -1])
    clips = [wave(seconds, seed=i) for i, seconds in enumerate((0.9, 0.31, 1.7, 3.3, 0.006, 0.6))]
    batches = [{"audio": [clip(array) for array in part]} for part in (clips[:4], clips[4:])]
    found = torch.from_numpy(encoder.encode(batches, **TASK, batch_size=4, show_progress_bar=False))
    alone = hear_api.load_model(str(tmp_path / "model.safetensors"), chunk_s=2, layer=[0, -1])
    expected = [hear_api.get_scene_embeddings(torch.from_numpy(array).float()[None], alone) for array in clips]
    torch.testing.assert_close(found, torch.cat(expected), rtol=0, atol=2e-5)
    assert found.dtype == torch.float32 and found.shape == (6, encoder.model.scene_embedding_size)


def test_clips_of_a_batch_are_run_together_and_no_more_than_a_chunk() -> None:
    encoder = Encoder(str(TINY), device="cpu", chunk_s=2)
    sizes: list[int] = []

    def count(module: Any, inputs: Any) -> None:
        waves = inputs[0]
        sizes.append(len(waves) * max(map(len, waves)))

    encoder.model.model.register_forward_pre_hook(count)
    encode(encoder, *(clip(wave(seconds)) for seconds in (0.5, 0.4, 1.5, 0.6, 2.4, 0.45)))
    # 0.4, 0.45 and 0.5 s and the next make 4 x 0.6 s: too much. 0.6 s and 1.5 s are not padded together either.
    assert [size / 16_000 for size in sizes] == [1.5, 0.6, 1.5, 2.0, 2.0]


def test_other_rates_channels_and_precisions(encoder: Encoder, tmp_path: Path) -> None:
    for rate in (8000, 22_050, 44_100, 48_000):
        array = wave(0.7, rate)
        found = encode(encoder, clip(array, rate))
        expected = encode(encoder, clip(soxr.resample(array.astype(np.float32), rate, 16_000, quality="HQ")))
        assert torch.equal(found, expected)
    zoo.save(tiny("hubert_base", sample_rate=8000), tmp_path / "model.safetensors")
    other = Encoder(str(tmp_path / "model.safetensors"), device="cpu")  # of a rate that HEAR has not
    array = wave(0.7, 44_100)
    expected = encode(other, clip(soxr.resample(array.astype(np.float32), 44_100, 8000, quality="HQ"), 8000))
    assert torch.equal(encode(other, clip(array, 44_100)), expected)
    array = wave(0.7)
    expected = encode(encoder, clip(array))
    stereo = np.stack([1.5 * array, 0.5 * array])
    for given in (array.astype(np.float32), array.tolist(), stereo, torch.from_numpy(array)):
        torch.testing.assert_close(encode(encoder, clip(given)), expected, rtol=0, atol=1e-5)


def test_layers_are_combined_as_in_hear_api() -> None:
    array = wave(0.7)
    states = torch.stack(zoo.load(TINY)(torch.from_numpy(array).float()[None]).hidden_states).mean(2)[:, 0].detach()
    found = encode(Encoder(str(TINY), device="cpu", layer="all", combine="mean"), clip(array))
    torch.testing.assert_close(found[0], states.mean(0), rtol=0, atol=1e-5)
    found = encode(Encoder(str(TINY), device="cpu", layer=[0, 1], combine="weights", weights=[2, -1]), clip(array))
    torch.testing.assert_close(found[0], 2 * states[0] - states[1], rtol=0, atol=1e-5)


def test_similarity_is_the_cosine(encoder: Encoder) -> None:
    first, second = torch.randn(3, 8), torch.randn(3, 8)
    expected = torch.nn.functional.cosine_similarity(first[:, None], second[None], dim=2)
    torch.testing.assert_close(encoder.similarity(first, second.numpy()), expected)
    torch.testing.assert_close(encoder.similarity(first[1], second), expected[1:2])
    torch.testing.assert_close(encoder.similarity_pairwise(first.numpy(), second), expected.diagonal())
    torch.testing.assert_close(encoder.similarity_pairwise(first[0], second[0]), expected[0, :1])


def test_results_are_filed_by_weights_and_options(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    meta = ModuleType("mteb.models.model_meta")
    meta.ScoringFunction = Enum("ScoringFunction", {"COSINE": "cosine"})  # type: ignore[attr-defined]
    meta.ModelMeta = SimpleNamespace(create_empty=dict)  # type: ignore[attr-defined]
    for name, module in (
        ("mteb", ModuleType("mteb")),
        ("mteb.models", ModuleType("mteb.models")),
        (meta.__name__, meta),
    ):
        monkeypatch.setitem(sys.modules, name, module)
    one, other = (Encoder(str(TINY), device="cpu", **more).mteb_model_meta for more in ({}, {"layer": 0}))
    assert one["name"] == "zoo/hubert_tiny" and one["modalities"] == ["audio"]
    assert one["embed_dim"] == zoo.load(TINY).config.width and one["similarity_fn_name"].value == "cosine"
    assert one["revision"] == other["revision"] and len(one["revision"]) == 12
    assert one["experiment_kwargs"] is None and other["experiment_kwargs"] == {"layer": 0}
    model = zoo.load(TINY)
    with torch.no_grad():
        next(model.parameters()).add_(1e-3)
    zoo.save(model, tmp_path / "hubert_tiny.safetensors")
    changed = Encoder(str(tmp_path / "hubert_tiny.safetensors"), device="cpu").mteb_model_meta
    assert changed["name"] == one["name"] and changed["revision"] != one["revision"]
    assert Encoder("fbank", device="cpu").mteb_model_meta["name"] == "zoo/fbank"


def test_a_revision_is_one_of_hugging_face(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def offline(name: str, **options: Any) -> Any:
        asked.append(name)
        return tiny("hubert_base")

    monkeypatch.setattr(zoo, "load", offline)
    Encoder("hf:org/repo", "abc", device="cpu")
    Encoder("hf:org/repo@abc", device="cpu")
    assert asked == ["hf:org/repo@abc"] * 2
    for name in ("hubert_base", "hf:org/repo@abc"):
        with pytest.raises(InputError, match=r"revision='def' was asked for of .*; names like hf:org/repo take one"):
            Encoder(name, "def")


def test_without_mteb_only_its_description_is_missing(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mteb", None)
    encode(encoder, clip(wave(0.5)))
    with pytest.raises(InputError, match=r"needs mteb \(.*\); pip install mteb$"):
        Encoder("fbank", device="cpu").mteb_model_meta  # noqa: B018


@pytest.mark.parametrize(
    ("batch", "options", "why"),
    [
        ({"text": ["a"]}, {}, "ESC50 gives text and no audio, which is all that a speech model takes"),
        ({"audio": [clip(np.zeros(0))]}, {}, r"a clip is an array of float64 \(0,\); give floating point"),
        ({"audio": [clip(np.zeros(800, np.int16))]}, {}, r"a clip is an array of int16 \(800,\)"),
        ({"audio": [clip(np.zeros((1, 1, 800)))]}, {}, r"a clip is an array of float64 \(1, 1, 800\)"),
        ({"audio": [clip(np.zeros(800), 0)]}, {}, "a clip's sampling_rate is 0"),
        ({"audio": [clip(np.zeros(800))]}, {"precision": "int8"}, "precision='int8' was asked for; .* are float32"),
    ],
)
def test_what_is_refused(encoder: Encoder, batch: dict[str, Any], options: dict[str, Any], why: str) -> None:
    with pytest.raises(InputError, match=why) as caught:
        encoder.encode([batch], **TASK, **options)
    assert "\n" not in str(caught.value)


def test_an_empty_loader_is_refused(encoder: Encoder) -> None:
    with pytest.raises(InputError, match="gives no batch; there is nothing to encode"):
        encoder.encode([], **TASK)
