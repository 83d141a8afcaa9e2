"""Discrete units: nearest centroids as scikit-learn and exact arithmetic have them, their files, the command lines."""

from __future__ import annotations

import json
import sys
import zipfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.cluster import KMeans, MiniBatchKMeans

import zoo
import zoo.__main__
from tests.pickle_writer import call, pickled, value
from zoo import _units
from zoo.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "examples" / "hubert_tiny.pt"
AUDIO = ROOT / "examples" / "audio"
WIDTH, LAYER = 32, 2

pytestmark = pytest.mark.usefixtures("one_thread")


def blobs(frames: int = 600, clusters: int = 12, width: int = WIDTH) -> torch.Tensor:
    centres = 5 * torch.randn(clusters, width)
    return centres[torch.arange(frames) % clusters] + torch.randn(frames, width)


def exact(states: torch.Tensor, centroids: torch.Tensor) -> torch.Tensor:
    """Nearest centroids without a matrix product, in float64."""
    return (states.double()[:, None] - centroids.double()).square().sum(2).argmin(1)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("units") / "k.npz"
    assert run("units", "fit", AUDIO, "-o", path, "--model", MODEL, "--layer", LAYER, "--clusters", 10) == 0
    return path


def run(*arguments: object) -> int:
    return zoo.__main__.main([str(argument) for argument in arguments])


# Nearest centroids


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_units_are_the_exact_ones_and_those_of_scikit_learn(scale: float) -> None:
    centroids = scale * torch.randn(50, WIDTH)
    states = scale * torch.randn(3000, WIDTH)
    theirs = KMeans(50)
    theirs._n_threads = 1
    theirs.cluster_centers_ = centroids.numpy()
    units = zoo.Units(centroids)(states)
    assert units.dtype == torch.int32
    assert units.tolist() == theirs.predict(states.numpy()).tolist() == exact(states, centroids).tolist()


def test_rounding_changes_no_unit() -> None:
    """Far from the origin and close together, where float32 products go wrong; as fractions say it."""
    offset = 1000 + torch.randn(WIDTH)
    centroids, states = offset + 0.01 * torch.randn(20, WIDTH), offset + 0.01 * torch.randn(100, WIDTH)
    table = [[Fraction(value) for value in row] for row in centroids.tolist()]
    units = zoo.Units(centroids)(states)
    for frame, unit in zip(states.tolist(), units.tolist()):
        distances = [sum((Fraction(a) - b) ** 2 for a, b in zip(frame, row)) for row in table]
        assert unit == distances.index(min(distances))
    single = (0.5 * centroids.square().sum(1) - states @ centroids.T).argmin(1)
    assert (single != units).sum() > 10  # so the case is hard


def test_of_equally_near_centroids_the_first_is_taken() -> None:
    units = zoo.Units(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [-1.0, 0.0]]))
    assert units(torch.tensor([[0.0, 0.0], [2.0, 2.0], [3.0, 0.0], [-1.0, 1.0]])).tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_shapes_dtypes_and_chunks(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    units = zoo.Units(torch.randn(7, WIDTH))
    states = torch.randn(2, 3, 11, WIDTH).to(dtype).transpose(0, 1).requires_grad_()
    whole = units(states)
    assert whole.shape == (3, 2, 11) and not whole.requires_grad
    assert torch.equal(whole.flatten(), exact(states.reshape(-1, WIDTH), units.centroids).int())
    monkeypatch.setattr(_units, "CHUNK", 4 * (7 + WIDTH))
    assert torch.equal(units(states), whole)
    assert units(states[:0]).shape == (0, 2, 11)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(units(states), whole)


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    largest, plain = 0, torch.addmm

    def spy(*args: Any, **kwargs: Any) -> torch.Tensor:
        nonlocal largest
        made = plain(*args, **kwargs)
        largest = max(largest, made.numel())
        return made

    monkeypatch.setattr(torch, "addmm", spy)
    zoo.Units(torch.randn(2000, 8))(torch.randn(10_000, 8))
    assert 0 < largest <= _units.CHUNK


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_states_that_are_not_finite(value: float) -> None:
    states = torch.randn(5, WIDTH)
    states[3, 4] = value
    with pytest.raises(InputError, match="NaN or infinity"):
        zoo.Units(torch.randn(3, WIDTH))(states)
    with pytest.raises(InputError, match="NaN or infinity"):
        zoo.Units.fit([states], 2)


@pytest.mark.parametrize("states", [torch.randn(4, WIDTH + 1), torch.ones(4, WIDTH, dtype=torch.int64)])
def test_states_of_another_kind(states: torch.Tensor) -> None:
    with pytest.raises(InputError, match=f"give floating point of shape .frames, {WIDTH}"):
        zoo.Units(torch.randn(3, WIDTH))(states)
    with pytest.raises(InputError, match="give floating point"):
        zoo.Units.fit([torch.randn(4, WIDTH), states], 2)


# Fitting


def test_fit_is_scikit_learns() -> None:
    """All frames fit: the same as MiniBatchKMeans with the settings of fairseq's learn_kmeans.py."""
    frames = blobs()
    theirs = MiniBatchKMeans(
        12, init="k-means++", max_iter=100, batch_size=10000, compute_labels=False, tol=0.0, max_no_improvement=100,
        init_size=None, n_init=20, reassignment_ratio=0.0, random_state=3,
    ).fit(frames.numpy())  # fmt: skip
    units = zoo.Units.fit(frames.split([1, 100, 499]), 12, seed=3, name="m", layer=6)
    assert torch.equal(units.centroids, torch.from_numpy(theirs.cluster_centers_))
    assert (units.model, units.layer, units.seed, units.frames) == ("m", 6, 3, 600)
    assert units.inertia == pytest.approx(-theirs.score(frames.numpy()) / 600, rel=1e-5)
    assert len(units(frames)[:12].unique()) == 12


def test_frames_are_drawn_with_equal_chances() -> None:
    stream = [torch.arange(i, i + n).float()[:, None] for i, n in ((0, 7), (7, 1), (8, 12))]
    counts, rounds = np.zeros(20), 2000
    for seed in range(rounds):
        kept = _units._draw(stream, 5, np.random.default_rng(seed)).astype(int).ravel()
        assert len(set(kept)) == 5
        counts[kept] += 1
    deviations = (counts - rounds / 4) / np.sqrt(rounds * 3 / 16)
    assert abs(deviations).max() < 4


def test_the_draw_keeps_no_more_than_asked_for() -> None:
    def stream() -> Iterator[torch.Tensor]:
        for _ in range(50):
            yield blobs(100)

    first = zoo.Units.fit(stream(), 5, max_frames=300, seed=1)
    assert first.frames == 300
    torch.manual_seed(0)
    again, other = (zoo.Units.fit([blobs(2000)], 5, max_frames=300, seed=seed) for seed in (1, 2))
    assert not torch.equal(again.centroids, other.centroids)


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"clusters": 11}, "11 clusters were asked for, and there are 10 frames"),
        ({"clusters": 0}, "at least one cluster"),
        ({"clusters": True}, "whole numbers"),
        ({"seed": -1}, "a seed from 0"),
        ({"seed": 1 << 32}, "a seed from 0"),
        ({"max_frames": 2}, "as many frames as clusters"),
        ({"max_frames": 1 << 60}, "more than memory holds"),
    ],
)
def test_what_cannot_be_fitted(more: dict[str, Any], why: str) -> None:
    with pytest.raises(InputError, match=why):
        zoo.Units.fit([torch.randn(10, 4)], **{"clusters": 3, **more})


def test_scikit_learn_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(InputError, match="pip install scikit-learn, or the zoo's extra 'units'"):
        zoo.Units.fit([torch.randn(10, 4)], 2)
    assert zoo.Units(torch.zeros(1, 2))(torch.zeros(3, 2)).tolist() == [0, 0, 0]  # which needs none


# Files


def test_a_file_holds_all(tmp_path: Path) -> None:
    units = zoo.Units(torch.randn(4, 3).double(), "m", 6, "ab", 1, 2, 0.1)
    units.save(tmp_path / "k.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["k.npz"]
    again = zoo.Units.load(tmp_path / "k.npz")
    assert torch.equal(again.centroids, units.centroids) and again.centroids.dtype == torch.float32
    assert [getattr(again, key) for key in _units.FACTS] == ["m", 6, "ab", 1, 2, 0.1]
    with np.load(tmp_path / "k.npz", allow_pickle=False) as file:
        assert file["centroids"].dtype == np.float32
        assert json.loads(str(file["metadata"]))["layer"] == 6


@pytest.mark.parametrize("dtype", ["float16", ">f4", "float64", "longdouble"])
def test_centroids_alone(tmp_path: Path, dtype: str) -> None:
    """What the recipe for fairseq's km.bin writes, and compressed."""
    centroids = np.random.default_rng(0).standard_normal((5, 4))
    np.savez_compressed(tmp_path / "k.npz", centroids=np.asfortranarray(centroids).astype(dtype))
    units = zoo.Units.load(tmp_path / "k.npz")
    assert (units.model, units.layer, units.seed) == ("", None, None)
    np.testing.assert_allclose(units.centroids.numpy(), centroids, rtol=1e-3)
    units.check(zoo.build("fbank"), 0)


def hostile(path: Path) -> bytes:
    """A pickle that leaves a mark when it is run."""
    return pickled(call("os", "mkdir", value(str(path / "run"))))


GOOD = np.ones((3, 2), np.float32)
BAD_FILES: dict[str, Any] = {
    "no array 'centroids'": {"centres": GOOD},
    "holds centroids as int64": {"centroids": np.ones((3, 2), int)},
    "holds centroids as complex64": {"centroids": GOOD.astype(np.complex64)},
    "its centroids are torch.float64 (2,); give": {"centroids": np.ones(2)},
    "its centroids are torch.float64 (0, 2); give": {"centroids": np.ones((0, 2))},
    "its centroids hold NaN or infinity": {"centroids": np.array([[1.0, np.nan]])},
    "its centroids hold NaN or infinity;": {"centroids": np.array([[1.0, 1e300]])},
    "its metadata are no JSON object": {"centroids": GOOD, "metadata": np.array("{")},
    "its metadata are no JSON object;": {"centroids": GOOD, "metadata": np.array("[" * 100_000)},
    "its metadata are no JSON object; fit": {"centroids": GOOD, "metadata": np.array(["{}"])},
    "its metadata give 'layer' as 'six'": {"centroids": GOOD, "metadata": np.array('{"layer": "six"}')},
    "or holds pickled objects": {"centroids": np.array([[1.0, None]], object)},
    "or holds pickled objects, which": {"centroids": GOOD, "metadata": np.array([{}], object)},
}


@pytest.mark.parametrize("why", BAD_FILES)
def test_bad_arrays(why: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "k.npz", **BAD_FILES[why])
    with pytest.raises(InputError) as raised:
        zoo.Units.load(tmp_path / "k.npz")
    assert why in str(raised.value) and str(raised.value).count("\n") == 0


def test_other_files(tmp_path: Path) -> None:
    path = tmp_path / "km.bin"
    for content in (hostile(tmp_path), b"", b"notes", GOOD.tobytes()):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"no \.npz file.*joblib.load\('km.bin'\).cluster_centers_"):
            zoo.Units.load(path)
    with zipfile.ZipFile(path, "w") as file:  # a pickle inside
        file.writestr("centroids.npy", hostile(tmp_path))
    with pytest.raises(InputError):
        zoo.Units.load(path)
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match=r"nowhere\.npz cannot be read: No such file"):
        zoo.Units.load(tmp_path / "nowhere.npz")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        zoo.Units.load(tmp_path)


def test_a_file_that_unpacks_to_more_than_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(tmp_path / "k.npz", centroids=np.zeros((1000, 1000)))
    monkeypatch.setattr(_units, "MAX_FILE_BYTES", 1_000_000)
    with pytest.raises(InputError, match="it holds 8000128 bytes"):
        zoo.Units.load(tmp_path / "k.npz")
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (4000000000000, 768), }\n"
    with zipfile.ZipFile(tmp_path / "k.npz", "w") as file:
        file.writestr("centroids.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    with pytest.raises(InputError, match="is damaged"):
        zoo.Units.load(tmp_path / "k.npz")


def test_damaged_bytes_are_refused_or_harmless(tmp_path: Path) -> None:
    zoo.Units(torch.randn(4, 3), "m", 6).save(tmp_path / "k.npz")
    good, draw, refused = (tmp_path / "k.npz").read_bytes(), np.random.default_rng(0), 0
    for case in range(160):
        bad = bytearray(good)
        bad[draw.integers(len(bad))] ^= 1 << draw.integers(8)
        (tmp_path / "k.npz").write_bytes(bad if case % 4 else good[: draw.integers(len(good))])
        try:
            assert zoo.Units.load(tmp_path / "k.npz").centroids.isfinite().all()
        except InputError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 80


# The command lines


def test_fit_twice_gives_the_same_bytes(fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--model", MODEL, "--layer", LAYER - 4, "--clusters", 10)
    assert run("units", "fit", *sorted(AUDIO.iterdir()), "-o", tmp_path / "k.npz", *options, "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert (tmp_path / "k.npz").read_bytes() == fitted.read_bytes()
    units = zoo.Units.load(fitted)
    assert (record["clusters"], record["frames"], record["failed"]) == (10, units.frames, 0)
    assert (units.model, units.layer, units.seed, record["inertia"]) == (str(MODEL), LAYER, 0, units.inertia)


def test_fit_on_a_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "page.wav").write_text("<html></html>")
    output = ("-o", tmp_path / "k.npz")
    command = ["units", "fit", AUDIO, tmp_path, *output, "--model", MODEL, "--layer", 1, "--clusters", 9]
    assert run(*command, "--max-frames", 50) == 1  # for the page
    printed = capsys.readouterr()
    assert printed.out == f"9 units of 50 frames written to {tmp_path / 'k.npz'}\n"
    assert printed.err.count("\n") == 1 and "page.wav cannot be used" in printed.err
    assert run(*command) == 1
    assert "exists already" in capsys.readouterr().err
    found = set()
    for seed in range(4):
        run(*command, "--force", "--share", 0.4, "--seed", seed)
        found.add(zoo.Units.load(tmp_path / "k.npz").frames)
    assert len(found) > 1


def test_units_of_files(fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As Python gives them from the features, one by one; the text as fairseq writes it."""
    model, units = zoo.load(MODEL), zoo.Units.load(fitted)
    for form, text in (("safetensors", ["--units-text"]), ("npy", ["--merge"])):
        out = tmp_path / form
        command = ["extract", AUDIO, "-o", out, "--model", MODEL, "--units", fitted, "--format", form, *text]
        assert run(*command) == 0
        assert capsys.readouterr().out == f"6 of 6 files extracted to {out}\n"
        lines = (out / "units.txt").read_text().splitlines()
        records = [json.loads(line) for line in (out / "index.jsonl").read_text().splitlines()]
        assert len(lines) == len(records) == 6
        for line, record in zip(lines, records):
            (item,) = zoo.extract(model, [record["source"]], layers=[LAYER], progress=False)
            expected = units(item.hidden_states[0])
            path = out / record["output"]
            found = torch.from_numpy(np.load(path)) if form == "npy" else load_file(path)["units"]
            assert found.dtype == torch.int32 and torch.equal(found, expected)
            assert record["frames"] == len(expected)
            shown = expected if form == "safetensors" else expected.unique_consecutive()
            assert line == f"{Path(record['source']).stem}|{' '.join(map(str, shown.tolist()))}"
        assert {path.name for path in out.iterdir()} == {r["output"] for r in records} | {"index.jsonl", "units.txt"}


def test_units_of_others(fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Refused, unless it is forced; nothing is written."""
    out = tmp_path / "out"
    command = ["extract", AUDIO / "0_theo_0.wav", "-o", out, "--model", MODEL, "--units", fitted]
    for more, why in (
        (["--layers", "1"], "of layer 2, and layer 1 was asked for"),
        (["--padding", "reference"], "in weights, configuration or padding"),
        (["--layers", "1,2"], "give one index"),
        (["--layers", "all"], "give one index"),
    ):
        assert run(*command, *more) == 1
        error = capsys.readouterr().err
        assert why in error and error.count("\n") == 1 and not out.exists()
    assert run(*command, "--layers", "1", "--units-force") == 0
    assert run(*command, "--layers=-2", "--force") == 0
    assert not (out / "units.txt").exists()


def test_units_without_a_layer_or_of_another_width(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "k.npz", centroids=np.random.default_rng(0).standard_normal((4, WIDTH)))
    out = tmp_path / "out"
    command = ["extract", AUDIO / "0_theo_0.wav", "-o", out, "--model", MODEL, "--units", tmp_path / "k.npz"]
    assert run(*command) == 1
    assert "does not say of which layer" in capsys.readouterr().err
    assert run(*command, "--layers", 1, "--merge") == 0
    np.savez(tmp_path / "k.npz", centroids=np.ones((4, WIDTH + 1)))
    assert run(*command, "--layers", 1, "--merge", "--force", "-o", tmp_path / "other") == 1
    assert "the units are of width 33" in capsys.readouterr().err and not (tmp_path / "other").exists()


def test_the_text_is_whole_or_not_there(
    fitted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["extract", AUDIO, "-o", tmp_path / "out", "--model", MODEL, "--units", fitted, "--units-text"]
    calls = 0

    def failing(self: zoo.Units, states: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 6:
            raise InputError("the states hold NaN")
        return torch.zeros(len(states), dtype=torch.int32)

    monkeypatch.setattr(zoo.Units, "__call__", failing)
    assert run(*command, "--batch-seconds", 0.001) == 1
    assert "NaN" in capsys.readouterr().err
    assert not {"units.txt", "index.jsonl"} & {path.name for path in tmp_path.rglob("*")}
    assert not list(tmp_path.rglob(".zoo-*"))


def test_two_recordings_of_one_name(fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for suffix in ("wav", "flac"):
        (tmp_path / f"a.{suffix}").write_bytes(b"")
    assert run("extract", tmp_path, "-o", tmp_path / "o", "--model", MODEL, "--units", fitted, "--merge") == 1
    assert "two recordings would be 'a' in units.txt" in capsys.readouterr().err
