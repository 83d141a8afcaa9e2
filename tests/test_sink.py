"""What is written for other toolkits: torch's restricted loader reads it; the same input gives the same bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from zoo._tensors import Lazy, Made
from zoo.converters._sink import ALIGNMENT, STORAGES, write_folder, write_torch_file
from zoo.converters._unpickle import open_torch_file
from zoo.errors import InputError


def lazy(tensor: torch.Tensor) -> Made:
    return Made(tensor.dtype, tuple(tensor.shape), lambda: tensor)


def everything() -> dict[str, Any]:
    shared = lazy(torch.randn(2, 3))
    return {
        "plain": [
            None,
            True,
            False,
            0,
            1,
            -1,
            255,
            -129,
            2**40,
            1.5,
            float("inf"),
            "text",
            "ü\n",
            (1, (2,)),
            [],
            {},
            (),
        ],
        "nested": {"a": {"b": [shared, {"c": shared}]}, 3: "a number for a key"},
        **{str(dtype): lazy((torch.rand(3, 2, 4) * 50).to(dtype)) for dtype in STORAGES},
        "scalar": lazy(torch.tensor(2.5)),
        "empty": lazy(torch.zeros(0, 4)),
        "column": lazy(torch.arange(6.0).reshape(2, 3).T),
    }


def same(got: Any, want: Any) -> bool:
    if isinstance(want, Lazy):
        got = got.load() if isinstance(got, Lazy) else got
        return got.dtype == want.dtype and torch.equal(got, want.load())
    if isinstance(want, dict):
        return list(got) == list(want) and all(same(got[key], want[key]) for key in want)
    if isinstance(want, (list, tuple)):
        return type(got) is type(want) and len(got) == len(want) and all(map(same, got, want))
    return bool(got == want) and type(got) is type(want)


def test_torch_and_the_restricted_reader_read_what_is_written(tmp_path: Path) -> None:
    root = everything()
    write_torch_file(tmp_path / "a.pt", root)
    assert same(torch.load(tmp_path / "a.pt", weights_only=True), root)
    assert same(torch.load(tmp_path / "a.pt", weights_only=True, mmap=True), root)
    source = open_torch_file(tmp_path / "a.pt")
    assert same(source.root, root)
    source.close()


def test_a_tensor_in_two_places_is_stored_once(tmp_path: Path) -> None:
    write_torch_file(tmp_path / "a.pt", everything())
    first, second = torch.load(tmp_path / "a.pt", weights_only=True)["nested"]["a"]["b"]
    assert first.data_ptr() == second["c"].data_ptr()


def test_tensors_are_aligned(tmp_path: Path) -> None:
    write_torch_file(tmp_path / "a.pt", everything())
    mapped = torch.load(tmp_path / "a.pt", weights_only=True, mmap=True)
    assert all(mapped[str(dtype)].data_ptr() % ALIGNMENT == 0 for dtype in STORAGES)


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    write_torch_file(tmp_path / "a.pt", everything())
    torch.manual_seed(0)
    write_torch_file(tmp_path / "b.pt", everything())
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()


def failing() -> torch.Tensor:
    raise KeyboardInterrupt


@pytest.mark.parametrize("write", [write_torch_file, write_folder])
def test_nothing_is_left_of_what_was_interrupted(tmp_path: Path, write: Any) -> None:
    root = {"tensors": {"whole": lazy(torch.ones(3)), "broken": Made(torch.float32, (2,), failing)}}
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "out", root)
    assert not list(tmp_path.iterdir())


def test_a_folder_with_other_files_is_not_replaced(tmp_path: Path) -> None:
    root = {"config": {"a": 1}, "tensors": {"x": lazy(torch.ones(3))}}
    out = tmp_path / "out"
    write_folder(out, root)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    write_folder(out, root)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert set(before) == {"config.json", "model.safetensors"}
    (out / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"notes\.txt"):
        write_folder(out, root)
    assert (out / "notes.txt").read_text() == "mine"
