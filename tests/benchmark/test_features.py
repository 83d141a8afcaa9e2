"""Features are the same from a store and on the fly, and what a head sees of them is what it should."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import zoo
from tests.benchmark import toys
from zoo.benchmark import audio
from zoo.benchmark._features import FRAMES, ON_THE_FLY, POOLED, Features, View, Waveforms, valid_frames
from zoo.benchmark._run import Options, Run, _Part
from zoo.benchmark._task import tasks
from zoo.benchmark._trainer import Probe
from zoo.errors import InputError

pytestmark = pytest.mark.usefixtures("one_thread")
HUBERT = Path(__file__).parents[2] / "examples" / "hubert_tiny.pt"
STORES = {"label": POOLED, "text": FRAMES, "turns": FRAMES}


def only(run: Run) -> _Part:
    """A run without folds."""
    return _Part(run, None, run.corpora[None])


def both_ways(tmp_path: Path, name: str, **options: Any) -> None:
    """The same run with a store and without: losses, layer weights and metrics."""
    stored = toys.run(name, tmp_path / "stored", **options)
    flown = toys.run(name, tmp_path / "flown", store_gb=0, **options)
    assert (stored.details["features"], flown.details["features"]) == (STORES[name], ON_THE_FLY)
    assert len(toys.losses(stored)) == stored.config["steps"]
    torch.testing.assert_close(toys.losses(stored), toys.losses(flown), rtol=0, atol=1e-5)
    weights = [one.details["layer_weights"] for one in (stored, flown)]
    torch.testing.assert_close(*weights, rtol=0, atol=1e-5)
    assert stored.metrics == flown.metrics


@pytest.mark.parametrize("name", ["label", "text"])
@pytest.mark.parametrize("frames", ["round", "ceil"])
@pytest.mark.parametrize(("layers", "normalize"), [(None, False), ([0, 2], True), ([-1], False)])
def test_a_store_changes_nothing(tmp_path: Path, name: str, frames: str, layers: Any, normalize: bool) -> None:
    recipe = replace(toys.TASKS[name], frames=frames)
    both_ways(tmp_path, name, recipe=recipe, layers=layers, normalize=normalize)


@pytest.mark.parametrize("name", ["label", "turns"])
def test_a_store_of_a_model_of_the_zoo_changes_nothing(tmp_path: Path, name: str) -> None:
    both_ways(tmp_path, name, upstream=str(HUBERT))


def test_items_with_random_windows_are_not_stored_and_change_nothing(tmp_path: Path) -> None:
    both_ways(tmp_path, "label", corpus_options={"window_s": 0.2})


def test_the_rules_for_frames() -> None:
    # 16000 samples: 50 hops of 320; 49 frames of a convolution; half to even.
    assert [valid_frames(n, 320, "round") for n in (16_000, 480, 800, 160, 161)] == [50, 2, 2, 0, 1]
    assert [valid_frames(n, 320, "ceil") for n in (16_000, 16_001, 1, 320, 321)] == [50, 51, 1, 1, 2]
    states = [torch.arange(1.0, 50).view(1, 49, 1).expand(1, 49, 2)]
    for rule, frames, last in (("round", 49, 49.0), ("ceil", 50, 49.0)):
        x, x_len = View((0,), False, rule, pools=False, exact=True).take(states, torch.tensor([49]), [16_000], 320)
        assert x_len.tolist() == [frames] == [x.shape[2]]
        assert x[0, 0, -1, 0] == last
        mean, one = View((0,), False, rule, pools=True, exact=True).take(states, torch.tensor([49]), [16_000], 320)
        assert mean.shape == (1, 1, 1, 2) and one.tolist() == [1]
        torch.testing.assert_close(mean[0, 0, 0], x[0, 0].mean(0))


def test_the_reference_counts_frames_of_padding_and_exact_does_not() -> None:
    states, lengths, samples = [torch.ones(2, 50, 1)], torch.tensor([49, 10]), [16_000, 3_400]
    exact = View((0,), False, "round", pools=False, exact=True).take(states, lengths, samples, 320)
    padded = View((0,), False, "round", pools=False, exact=False).take(states, lengths, samples, 320)
    assert exact[1].tolist() == [49, 10] and padded[1].tolist() == [50, 11]
    assert float(exact[0].sum()) == 59 and float(padded[0].sum()) == 61


def test_normalisation_is_of_every_state_over_its_width() -> None:
    state = torch.randn(1, 4, 8) * 3 + 2
    x, _ = View((0,), True, "ceil", pools=False, exact=True).take([state], torch.tensor([4]), [1280], 320)
    torch.testing.assert_close(x[0, 0].mean(-1), torch.zeros(4), rtol=0, atol=1e-6)
    torch.testing.assert_close(x[0, 0].var(-1, correction=0), torch.ones(4), rtol=1e-4, atol=0)


def probe(states: int, head: Any = None) -> Probe:
    corpus = toys.corpus()
    return Probe(states, head or torch.nn.Identity(), toys.classification(corpus, 320), None)


def test_layer_weights_begin_as_a_plain_mean_and_one_layer_has_none() -> None:
    x = torch.randn(2, 3, 5, 4)
    several, one = probe(3), probe(1)
    assert several.weights is not None and several.weights.tolist() == [0, 0, 0]
    torch.testing.assert_close(several.sum(x), x.mean(1))
    assert several.layer_weights() == pytest.approx([1 / 3] * 3)
    assert one.weights is None and one.layer_weights() == [1.0] and not list(one.parameters())
    assert torch.equal(one.sum(x[:, :1]), x[:, 0])
    several.weights.data = torch.tensor([0.0, 1.0, -2.0])
    want = sum(w * x[:, k] for k, w in enumerate(torch.tensor([0.0, 1.0, -2.0]).softmax(0)))
    torch.testing.assert_close(several.sum(x), want)


def features_of(tmp_path: Path, **options: Any) -> tuple[Tensor, Tensor]:
    """(B, K, T, D) and (B,) of three items of a frame task."""
    given = {"corpus": toys.corpus, "corpus_options": {"kind": "text"}}
    run = Run(
        toys.task("text", toys.TEXT), toys.Upstream, None, tmp_path, Options(**given, **options), lambda line: None
    )
    x, x_len, kept = only(run).features.batch("train", ["train0", "train2", "train1"], [1, 2, 3])
    assert kept == [0, 1, 2]
    return x, x_len


@pytest.mark.parametrize("layers", [[0], [2], [-1], [0, 2], [2, 0], [1, -1]])
def test_layers_are_slices_of_all(tmp_path: Path, layers: list[int]) -> None:
    whole, whole_len = features_of(tmp_path)
    some, some_len = features_of(tmp_path, layers=layers)
    assert torch.equal(some, whole[:, [i % 3 for i in layers]]) and torch.equal(some_len, whole_len)


@pytest.mark.parametrize("layers", [[3], [-4], []])
def test_layers_that_are_not_there_are_refused(tmp_path: Path, layers: list[int]) -> None:
    with pytest.raises(InputError, match="has the hidden states 0 to 2"):
        features_of(tmp_path, layers=layers)


def test_windows_differ_between_draws_and_stay_the_same_for_one(tmp_path: Path) -> None:
    given = {"corpus": toys.corpus, "corpus_options": {"window_s": 0.1}}
    run = Run(toys.task("label"), toys.Upstream, None, tmp_path, Options(**given), lambda line: None)
    part = only(run)
    item = part.splits["train"].items["train1"]
    sound = part.features.audio
    windows = [sound.read(item, "train", draw) for draw in range(40)]
    whole = item["waveform"]
    starts = {next(i for i in range(len(whole)) if torch.equal(whole[i : i + 1600], w)) for w in windows}
    assert all(len(w) == 1600 for w in windows) and len(starts) > 30
    assert min(starts) < 0.2 * (len(whole) - 1600) and max(starts) > 0.8 * (len(whole) - 1600)
    assert all(torch.equal(sound.read(item, "train", draw), windows[draw]) for draw in (0, 7))
    other = replace(run.options, seed=1)
    again = only(Run(toys.task("label"), toys.Upstream, None, tmp_path, other, lambda line: None)).features.audio
    assert not torch.equal(again.read(item, "train", 0), windows[0])


def test_crops_are_of_training_only(tmp_path: Path) -> None:
    recipe = replace(toys.POOLED, crop_s=0.2)
    given = {"corpus": toys.corpus}
    run = Run(toys.task("label", recipe), toys.Upstream, None, tmp_path, Options(**given), lambda line: None)
    features = only(run).features
    items = {name: split.items[f"{name}1"] for name, split in features.splits.items()}
    assert [len(features.audio.read(item, name, 1)) for name, item in items.items()] == [
        3200, *(len(items[name]["waveform"]) for name in ("valid", "test"))
    ]  # fmt: skip
    kept = [name for name, _ in features.fixed(POOLED).values()]
    assert "train" in features.splits and "train" not in kept
    assert kept.count("test") == 8


def test_what_cannot_be_read_is_left_out_and_counted(tmp_path: Path) -> None:
    def broken() -> Any:
        found = toys.corpus()
        found["train"]["train3"]["waveform"][100] = torch.nan
        found["train"]["train4"]["waveform"] = torch.zeros(399)
        found["valid"]["valid2"]["label"] = "never heard"
        del found["test"]["test0"]["label"]
        return found

    results = [
        toys.run("label", tmp_path / str(gb), corpus=lambda kind: broken(), store_gb=gb, steps=9) for gb in (50, 0)
    ]
    for result in results:
        excluded = result.details["excluded"]
        assert {name: one["count"] for name, one in excluded.items()} == {"train": 2, "valid": 1, "test": 1}
        assert any("NaN" in why for why in excluded["train"]["examples"])
        assert any("399 samples" in why for why in excluded["train"]["examples"])
        assert "never heard" in excluded["valid"]["examples"][0]


@pytest.mark.parametrize("store_gb", [50, 0])
def test_half_precision_runs_and_is_near(tmp_path: Path, store_gb: float) -> None:
    options = {"upstream": str(HUBERT), "store_gb": store_gb}
    whole = toys.run("label", tmp_path / "fp32", **options)
    half = toys.run("label", tmp_path / "bf16", precision="bf16", **options)
    # The model has random weights and large states; so small a difference of losses still tells bf16 from nonsense.
    assert 0 < max(abs(a - b) for a, b in zip(toys.losses(whole), toys.losses(half))) < 0.2
    assert half.details["features"] == (POOLED if store_gb else ON_THE_FLY)


def test_half_precision_is_the_same_from_a_store(tmp_path: Path) -> None:
    both_ways(tmp_path, "label", upstream=str(HUBERT), precision="bf16")


def test_stores_of_effects_are_found_again_in_another_process(tmp_path: Path) -> None:
    recipe = replace(toys.POOLED, audio={"train": partial(audio.gain, db=-3.0)})
    given = Options(corpus=toys.corpus)
    configs = [
        Run(toys.task("label", one), toys.Upstream, None, tmp_path, given, lambda line: None).config["audio"]
        for one in (recipe, replace(recipe, audio={"train": partial(audio.gain, db=-6.0)}))
    ]
    assert configs[0] == {"train": "zoo.benchmark.audio:gain {'db': -3.0}"} and configs[0] != configs[1]


# fbank is normalised over each utterance: the mean over time, which is all that a linear head sees, is zero.
@pytest.mark.parametrize(
    ("name", "steps"),
    [
        pytest.param("ks", 150, marks=pytest.mark.slow),
        pytest.param("sid", 40, marks=pytest.mark.slow),
        ("ic", 40),
        ("er", 30),
    ],
)
def test_official_fbank_gives_a_constant_answer(tmp_path: Path, name: str, steps: int) -> None:
    task = tasks()[f"superb/{name}"]
    task.miniature(tmp_path / "data")
    assert task.recipes["official"].frames == "round"
    options = Options(steps=steps, lr=1e-2, progress=False)
    result = Run(task, "fbank", tmp_path / "data", tmp_path / "results", options, lambda line: None).run()
    for found in result.details.get("folds", {"all": result.details}).values():
        labels, counts = found["confusion"]["labels"], torch.tensor(found["confusion"]["counts"])
        assert counts.sum() > len(labels) and (counts.sum(0) > 0).sum() == 1, counts
    assert result.value <= result.chance
    # With the mean left in, the same heads learn something.
    fuller = Run(task, "fbank_no_cmvn", tmp_path / "data", tmp_path / "others", options, lambda line: None).run()
    columns = [
        (torch.tensor(one["confusion"]["counts"]).sum(0) > 0).sum()
        for one in fuller.details.get("folds", {"all": fuller.details}).values()
    ]
    assert max(columns) > 1


def test_a_model_of_the_zoo_is_taken_as_it_is(tmp_path: Path) -> None:
    model = zoo.load(HUBERT)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    given = toys.run("label", tmp_path / "a", upstream=model)
    named = toys.run("label", tmp_path / "b", upstream=str(HUBERT))
    assert toys.losses(given) == toys.losses(named)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_folds_share_a_store_and_random_parts_are_not_taken_from_it(tmp_path: Path) -> None:
    """A recording of several folds is kept once; one that is cropped at random in training is not the whole one."""
    run = Run(toys.task("label"), toys.Upstream, None, tmp_path, Options(corpus=toys.corpus), lambda line: None)
    folds = [only(run), only(run)]
    waveforms = Waveforms([part.features for part in folds], POOLED)
    once = Waveforms([folds[0].features], POOLED)
    assert list(waveforms) == list(once) and waveforms.estimate() == once.estimate() > 0
    features = folds[0].features
    item = next(iter(features.splits["train"].items.values()))
    features.audio.recipe = replace(features.audio.recipe, crop_s=0.2)
    cropped = Features(features.upstream, features.audio, features.view, features.splits)
    assert set(cropped.places["train"].values()) == {""} and "" not in cropped.places["valid"].values()
    assert features.audio.place(item, "train") == features.audio.place({**item, "label": "another"}, "valid")
    assert features.audio.place(item, "train") != features.audio.place({**item, "end_s": 0.1}, "train")
