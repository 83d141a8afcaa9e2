"""The restricted reader: equal to what was saved, inert to what a file asks for, one sentence for what is wrong."""

from __future__ import annotations

import argparse
import builtins
import collections
import contextlib
import enum
import io
import os
import pathlib
import pickle
import random
import struct
import sys
import tracemalloc
import types
import typing
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import pickle_writer as pw
from tests.trees import read
from zoo.converters import _unpickle
from zoo.converters._unpickle import TorchFile, open_torch_file
from zoo.errors import CheckpointError

DTYPES = (
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
    torch.complex64,
    torch.complex128,
)


def save(item: object, path: Path, container: str = "zip", protocol: int = 2) -> Path:
    torch.save(item, path, pickle_protocol=protocol, _use_new_zipfile_serialization=container == "zip")
    return path


def same(got: Any, expected: Any) -> None:
    """Equal in type, keys in order, and every bit of every tensor."""
    if isinstance(expected, torch.Tensor):
        assert type(got) is torch.Tensor and got.is_contiguous()
        assert got.dtype == expected.dtype and got.shape == expected.shape
        assert torch.equal(got, expected)
    elif isinstance(expected, dict):
        assert type(got) is dict and list(got) == list(expected)
        for key in expected:
            same(got[key], expected[key])
    elif isinstance(expected, (list, tuple)):
        assert type(got) is type(expected) and len(got) == len(expected)
        for one, other in zip(got, expected, strict=True):
            same(one, other)
    else:
        assert type(got) is type(expected) and got == expected


def refusal(path: Path | str) -> str:
    """The one sentence for a file that cannot be read, without the path that it starts with."""
    with pytest.raises(CheckpointError) as caught:
        read(path)
    sentence = str(caught.value)
    assert sentence.startswith(f"{path} ") and "\n" not in sentence and len(sentence) < len(str(path)) + 300
    return sentence.removeprefix(f"{path} ")


def read_body(path: Path, body: bytes, storages: dict[str, bytes] | None = None, protocol: int = 2) -> Any:
    return read(pw.write_zip(path / "file.pt", pw.pickled(body, protocol), storages))


def refused_body(path: Path, body: bytes, storages: dict[str, bytes] | None = None, protocol: int = 2) -> str:
    return refusal(pw.write_zip(path / "file.pt", pw.pickled(body, protocol), storages))


@contextlib.contextmanager
def module(name: str, **classes: type) -> Iterator[None]:
    """A module of classes that is there while a file is written and gone when it is read."""
    parents = [name.rsplit(".", n)[0] for n in range(name.count(".") + 1)]
    before = {parent: sys.modules.get(parent) for parent in parents}
    for parent in parents:
        sys.modules[parent] = types.ModuleType(parent)
    for attribute, cls in classes.items():
        cls.__module__, cls.__qualname__, cls.__name__ = name, attribute, attribute
        setattr(sys.modules[name], attribute, cls)
    try:
        yield
    finally:
        for parent in parents:
            del sys.modules[parent]
            if before[parent] is not None:
                sys.modules[parent] = before[parent]


def thing(**attributes: object) -> type:
    """A new class; `make(cls, x=1)` gives an instance with these attributes and without a constructor."""
    return type("Thing", (), attributes)


def make(cls: type, **attributes: object) -> Any:
    instance = cls.__new__(cls)
    instance.__dict__.update(attributes)
    return instance


def both_containers(test: Callable[..., None]) -> Callable[..., None]:
    return pytest.mark.parametrize("container", ["zip", "legacy"])(test)


# What torch.save writes


@both_containers
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_gives_what_was_saved(tmp_path: Path, container: str, protocol: int) -> None:
    item = {
        "model": collections.OrderedDict((f"layer.{i}.weight", torch.randn(3, i + 1)) for i in range(4)),
        "none": None,
        "numbers": [0, 1, -1, 255, 256, 65536, -(2**31), 2**40, 2**100, 1.5, float("inf"), True, False, 1 + 2j],
        "texts": ["", "å", "long " * 100, b"", b"\x00\xff", bytearray(b"ab"), bytearray()],
        "nested": {"tuple": (1, (2, (), (3,)), [4]), 5: "int key", (1, "a"): "tuple key", None: "none key"},
        "long tuple": tuple(range(10)),
    }
    file = save(item, tmp_path / "a.pt", container, protocol)
    same(
        read(file),
        {
            **item,
            "model": dict(item["model"]),
            "texts": [*item["texts"][:5], *map(type_of_bytes(protocol), item["texts"][5:])],
        },
    )
    with open_torch_file(file) as opened:
        assert (opened.path, opened.container) == (file, container)


def type_of_bytes(protocol: int) -> type:
    return bytearray if protocol == 5 else bytes


@both_containers
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype(tmp_path: Path, container: str, dtype: torch.dtype) -> None:
    item = {"some": (torch.randn(5, 3) * 50).to(dtype), "empty": torch.empty(0, 7, dtype=dtype)}
    same(read(save(item, tmp_path / "a.pt", container)), item)


@both_containers
def test_views_of_one_storage(tmp_path: Path, container: str) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    item = {
        "base": base,
        "again": base,
        "transposed": base.t(),
        "column": base[:, 2],
        "corner": base[1:3, 2:5],
        "steps": base[::2, ::3],
        "scalar": base[2, 3],
        "one": base[3:, 5:],
        "wide": base[0, :1].expand(6),
        "permuted": base.reshape(2, 3, 4).permute(2, 0, 1),
        "odd strides": base.as_strided((1, 3, 1), (1000, 2, 77)),
        "nothing": base[:0],
    }
    file = save(item, tmp_path / "a.pt", container)
    same(read(file), {key: tensor.contiguous() for key, tensor in item.items()})
    assert file.stat().st_size < 5000  # the storage was written once
    with open_torch_file(file) as opened:
        lazy = opened.root["transposed"]
        assert (lazy.dtype, lazy.shape, lazy.stride) == (torch.float32, (6, 4), (1, 6))
        assert (lazy.numel, lazy.nbytes) == (24, 96)
        lazy.load().zero_()
        same(lazy.load(), base.t().contiguous())


@both_containers
def test_parameters_and_subclasses(tmp_path: Path, container: str) -> None:
    plain, marked, buffer = (torch.nn.Parameter(torch.randn(3)) for _ in range(3))
    marked.param_group = "generator"
    tagged = torch.randn(2)
    tagged.tag = "text"
    layer = torch.nn.BatchNorm1d(3)
    item = {"plain": plain, "marked": marked, "buffer": torch.nn.Buffer(buffer.detach()), "tagged": tagged}
    got = read(save({**item, "state": layer.state_dict()}, tmp_path / "a.pt", container))
    expected = {key: torch.Tensor(tensor.detach()) for key, tensor in item.items()}
    same(got, {**expected, "state": dict(layer.state_dict())})


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_containers_and_scalars_of_libraries(tmp_path: Path, protocol: int) -> None:
    item = {
        "sets": [{1, 2}, frozenset({"a"}), set(), frozenset()],
        "default": collections.defaultdict(list, a=[1]),
        "size": torch.Size([2, 3]),
        "devices": [torch.device("cpu"), torch.device("cuda", 1)],
        "numpy": [np.float64(0.5), np.float32(0.25), np.int64(-3), np.bool_(True), np.complex128(1j), np.uint8(200)],
        "big": np.array([7], ">i4")[0],
        "path": pathlib.PurePosixPath("a"),
        "paths": pathlib.PosixPath("/x/y/z.pt"),
        "dtype": torch.float16,
    }
    same(
        read(save(item, tmp_path / "a.pt", protocol=protocol)),
        {
            "sets": item["sets"],
            "default": {"a": [1]},
            "size": (2, 3),
            "devices": ["cpu", "cuda:1"],
            "numpy": [0.5, 0.25, -3, True, 1j, 200],
            "big": 7,
            "path": "a",
            "paths": "/x/y/z.pt",
            "dtype": "torch.float16",
        },
    )


def test_paths_of_another_python(tmp_path: Path) -> None:
    """Python 3.13 pickles a path under a private name."""
    assert read_body(tmp_path, pw.call("pathlib._local", "PosixPath", pw.value("/"), pw.value("a"))) == "/a"


def test_values_that_are_to_be_altered_are_refused(tmp_path: Path) -> None:
    item = torch.tensor([1 + 2j]).conj()
    assert "conjugated" in refusal(save(item, tmp_path / "a.pt"))


def test_the_folder_may_have_any_name(tmp_path: Path) -> None:
    body = pw.tensor(pw.storage("0", 1), 0, (1,), (1,))
    for folder in ("archive", "checkpoint best", "a/b", "data"):
        file = pw.write_zip(tmp_path / "a.pt", pw.pickled(body), {"0": struct.pack("<f", 2)}, folder=folder)
        same(read(file), torch.tensor([2.0]))


def test_legacy_views_of_storages(tmp_path: Path) -> None:
    whole = pw.storage("k", 6, "IntStorage", pw.value(None))
    part = pw.storage("k", 6, "IntStorage", pw.value(("k", 2, 3)))
    body = pw.group(pw.tensor(whole, 0, (2, 3), (3, 1)), pw.tensor(part, 1, (2,), (1,)), part)
    file = pw.write_legacy(tmp_path / "a.pt", pw.pickled(body), {"k": (6, struct.pack("<6i", *range(6)))})
    ints = torch.arange(6, dtype=torch.int32)
    same(read(file), (ints.reshape(2, 3), ints[3:5].clone(), ints[2:5].clone()))
    outside = pw.storage("k", 6, "IntStorage", pw.value(("k", 4, 3)))
    file = pw.write_legacy(tmp_path / "a.pt", pw.pickled(outside), {"k": (6, bytes(24))})
    assert "view outside its storage" in refusal(file)


def test_the_globals_are_listed(tmp_path: Path) -> None:
    with module("vanished.place", Kind=thing()):
        item = {"a": torch.ones(1), "b": make(sys.modules["vanished.place"].Kind, types=[dict, int, list])}
        file = save(item, tmp_path / "a.pt")
    with open_torch_file(file) as opened:
        assert opened.globals == (
            "builtins.dict",
            "builtins.list",
            "builtins.long",  # how protocol 2 spells int
            "collections.OrderedDict",
            "torch.FloatStorage",
            "torch._utils._rebuild_tensor_v2",
            "vanished.place.Kind",
        )
        assert opened.root["b"]["state"] == {"types": ["builtins.dict", "builtins.long", "builtins.list"]}


# Classes that are gone


@both_containers
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_objects_of_unknown_classes(tmp_path: Path, container: str, protocol: int) -> None:
    bare, slotted = thing(), type("Slots", (), {"__slots__": ("x",)})
    keyed = thing(__new__=lambda cls, *args, **kw: object.__new__(cls), __getnewargs_ex__=lambda self: ((1,), {"k": 2}))
    reduced = thing(__reduce__=lambda self: (type(self), (1, "two"), {"x": 3}))
    grown, mapped = type("Grown", (list,), {}), type("Mapped", (collections.OrderedDict,), {})
    number = type("Number", (int,), {})
    with module(
        "gone.for_good",
        Bare=bare,
        Slots=slotted,
        Keyed=keyed,
        Reduced=reduced,
        Grown=grown,
        Mapped=mapped,
        Number=number,
    ):
        slots = slotted()
        slots.x = 1
        instances = [make(bare), make(bare, x=[torch.ones(2)]), slots, reduced(), grown([1, 2]), mapped(a=1)]
        if protocol > 2:  # protocol 2 spells keyword arguments with functools.partial
            instances.append(keyed())
        file = save([*instances, number(7), bare], tmp_path / "a.pt", container, protocol)

    def kind(name: str, **parts: object) -> dict[str, object]:
        return {"__class__": f"gone.for_good.{name}", **parts}

    same(
        read(file),
        [
            kind("Bare"),
            kind("Bare", state={"x": [torch.ones(2)]}),
            kind("Slots", state=(None, {"x": 1})),
            kind("Reduced", args=[1, "two"], state={"x": 3}),
            kind("Grown", items=[1, 2]),
            kind("Mapped", items={"a": 1}),
            *([kind("Keyed", args=[1, {"k": 2}])] if protocol > 2 else []),
            7,
            "gone.for_good.Bare",
        ],
    )


@pytest.mark.parametrize("protocol", [2, 4])
def test_enums_dictionaries_and_namespaces(tmp_path: Path, protocol: int) -> None:
    choices = enum.Enum("Choices", {"default": "default", "layer_norm": "layer_norm"})
    level = enum.IntEnum("Level", {"low": 3})
    dictionary = thing()
    with (
        module("fairseq.dataclass.constants", Choices=choices, Level=level),
        module("fairseq.data.dictionary", Dictionary=dictionary),
    ):
        words = make(dictionary, symbols=["<s>", "a"], count=[1, 5], indices={"<s>": 0, "a": 1}, nspecial=1)
        item = {
            "args": argparse.Namespace(arch="wav2vec2", mode=choices.layer_norm, inner=argparse.Namespace(x=1)),
            "empty": argparse.Namespace(),
            "task_state": {"dictionaries": [words, words]},
            choices.default: level.low,
        }
        file = save(item, tmp_path / "a.pt", protocol=protocol)
    plain = {"symbols": ["<s>", "a"], "count": [1, 5], "indices": {"<s>": 0, "a": 1}, "nspecial": 1}
    same(
        read(file),
        {
            "args": {"arch": "wav2vec2", "mode": "layer_norm", "inner": {"x": 1}},
            "empty": {},
            "task_state": {"dictionaries": [plain, plain]},
            "default": 3,
        },
    )


@both_containers
@pytest.mark.parametrize("layout", ["2.0", "2.3"])
def test_omegaconf_without_omegaconf(tmp_path: Path, container: str, layout: str) -> None:
    names = ("AnyNode", "StringNode", "IntegerNode", "FloatNode", "BooleanNode", "EnumNode", "BytesNode", "PathNode")
    node = {name: thing() for name in names}
    dict_config, list_config, union, metadata = thing(), thing(), thing(), thing()
    choice = enum.Enum("Choices", {"static": "static"})

    def part(cls: type, parent: object, **attributes: object) -> Any:
        notes = make(metadata, ref_type=typing.List[int], object_type=dict, optional=True, key=None, flags={})  # noqa: UP006
        extra = {} if layout == "2.0" else {"_flags_cache": None}
        return make(cls, _metadata=notes, _parent=parent, **extra, **attributes)

    def container_of(cls: type, parent: object, content: Any, fill: Callable[[Any], Any]) -> Any:
        config = part(cls, parent, _content=content)
        config._content = fill(config)
        return config

    with (
        module("omegaconf.base", ContainerMetadata=metadata, UnionNode=union),
        module("omegaconf.dictconfig", DictConfig=dict_config),
        module("omegaconf.listconfig", ListConfig=list_config),
        module("omegaconf.nodes", **node),
        module("fairseq.dataclass.constants", Choices=choice),
    ):

        def model(parent: object) -> dict[str, object]:
            return {
                "_name": part(node["StringNode"], parent, _val="wav2vec2"),
                "layers": part(node["IntegerNode"], parent, _val=12),
                "dropout": part(node["FloatNode"], parent, _val=0.1),
                "norm": part(node["BooleanNode"], parent, _val=False),
                "selection": part(node["EnumNode"], parent, _val=choice.static),
                "raw": part(node["BytesNode"], parent, _val=b"\xff"),
                "path": part(node["PathNode"], parent, _val=pathlib.PosixPath("/a/b")),
                "nothing": part(node["AnyNode"], parent, _val=None),
                "missing": part(dict_config, parent, _content="???"),
                "absent": part(list_config, parent, _content=None),
                "union": part(union, parent, _content=part(node["AnyNode"], parent, _val=1)),
                "sizes": container_of(
                    list_config, parent, [], lambda own: [part(node["AnyNode"], own, _val=n) for n in (10, 3)]
                ),
            }

        def cfg(parent: object) -> dict[str, object]:
            return {
                "model": container_of(dict_config, parent, {}, model),
                "normalize": part(node["AnyNode"], parent, _val="${task.normalize}"),
            }

        file = save({"args": None, "cfg": container_of(dict_config, None, {}, cfg)}, tmp_path / "a.pt", container)
    expected = {
        "_name": "wav2vec2",
        "layers": 12,
        "dropout": 0.1,
        "norm": False,
        "selection": "static",
        "raw": b"\xff",
        "path": "/a/b",
        "nothing": None,
        "missing": "???",
        "absent": None,
        "union": 1,
        "sizes": [10, 3],
    }
    with open_torch_file(file) as opened:
        same(opened.root, {"args": None, "cfg": {"model": expected, "normalize": "${task.normalize}"}})
        assert "_operator.getitem" in opened.globals


def test_python_2_spellings(tmp_path: Path) -> None:
    body = pw.group(
        pw.call("__builtin__", "long", pw.value("12")),
        pw.call("__builtin__", "unicode", pw.value("text")),
        pw.call("__builtin__", "set", pw.value([1])),
        pw.call("__builtin__", "complex", pw.value(1.0), pw.value(-2.0)),
        pw.call("__builtin__", "float", pw.value("1e3")),
        pw.call("__builtin__", "dict", pw.value([("a", 1)])),
        pw.call("__builtin__", "bytearray", pw.value("\xe9"), pw.value("latin-1")),
        pw.call("copy_reg", "_reconstructor", pw.name("a", "B"), pw.name("__builtin__", "object"), pw.value(None)),
        pw.call("copy_reg", "_reconstructor", pw.name("a", "C"), pw.name("__builtin__", "list"), pw.value([1])),
        b"U\x02\xe9a",
    )
    same(
        read_body(tmp_path, body),
        (
            12,
            "text",
            {1},
            1 - 2j,
            1000.0,
            {"a": 1},
            b"\xe9",
            {"__class__": "a.B"},
            {"__class__": "a.C", "args": [[1]]},
            "\xe9a",
        ),
    )


def test_texts_can_be_printed(tmp_path: Path) -> None:
    (text,) = read(save(["\u00e5\U0001f600 \ud800 x"], tmp_path / "a.pt"))
    assert text == "\u00e5\U0001f600 ? x"


def test_numpy_arrays_stay_records(tmp_path: Path) -> None:
    (array,) = read(save([np.arange(3.0)], tmp_path / "a.pt"))
    assert array["__class__"].endswith("multiarray._reconstruct")
    assert array["state"] == (1, (3,), "<f8", False, np.arange(3.0).tobytes())


# Files that ask to run code


@pytest.mark.parametrize(
    "name",
    "os.system posix.system nt.system os.path.join subprocess.Popen sys.exit _io.open io.open importlib.import_module "
    "runpy.run_path functools.partial operator.attrgetter _operator.attrgetter _operator.methodcaller shutil.rmtree "
    "socket.socket ctypes.CDLL pty.spawn webbrowser.open types.CodeType pickle.loads builtins.getattr builtins.eval "
    "builtins.exec builtins.__import__ builtins.compile builtins.open __builtin__.eval __builtin__.getattr "
    "__builtin__.apply pydoc.locate antigravity.fly this.s xmlrpc.client.ServerProxy zoo.load numpy.load "
    "torch.load torch.hub.load torch.utils.benchmark.Timer typing.get_type_hints collections.namedtuple".split(),
)
def test_names_that_run_code_are_refused(tmp_path: Path, name: str) -> None:
    place, _, attribute = name.rpartition(".")
    shown = f"asks to run code by naming '{name.replace('__builtin__', 'builtins')}': nothing was run"
    assert shown in refused_body(tmp_path, pw.name(place, attribute))
    assert shown in refused_body(tmp_path, pw.value(place) + pw.value(attribute) + b"\x93", protocol=4)
    file = pw.write_legacy(tmp_path / "legacy.pt", pw.pickled(pw.group(pw.name(place, attribute))), {})
    assert shown in refusal(file)


class Payload:
    """What pickles as a call of `function(*args)`."""

    def __init__(self, function: Callable[..., object], *args: object) -> None:
        self.call = function, args

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


@both_containers
@pytest.mark.parametrize("protocol", [2, 5])
def test_nothing_is_run(tmp_path: Path, container: str, protocol: int) -> None:
    marker = tmp_path / "marker"
    payloads = [
        Payload(os.system, f"touch {marker}"),
        Payload(torch.save, 1, str(marker)),
        Payload(pathlib.Path.touch, marker),
        Payload(os.mkdir, str(marker)),
        Payload(builtins.eval, f"open({str(marker)!r}, 'w')"),
        Payload(builtins.exec, f"open({str(marker)!r}, 'w')"),
        Payload(builtins.open, str(marker), "w"),
    ]
    for payload in payloads:
        file = save({"model": torch.ones(1), "x": payload}, tmp_path / "a.pt", container, protocol)
        assert "asks to run code" in refusal(file)
    setters = thing(__setstate__=lambda self, state: marker.touch(), __new__=lambda cls: marker.touch())
    with module("unheard.of", Setter=setters):
        setter = object.__new__(setters)
        setter.x = 1
        file = save([setter], tmp_path / "a.pt", container, protocol)
        assert not marker.exists()
        got = read(file)  # while its class is there to be called
    assert got == [{"__class__": "unheard.of.Setter", "state": {"x": 1}}]
    assert not marker.exists()


@both_containers
def test_nothing_is_imported(tmp_path: Path, container: str) -> None:
    names = [
        ("tests.golden.make_omegaconf20", "main"),
        ("_pytest.pastebin", "create_new_paste"),
        ("examples.demo", "main"),
    ]
    body = pw.group(*(pw.call(*name, pw.value(1), pw.value(2)) + pw.value({"a": 1}) + b"b" for name in names))
    file = tmp_path / "a.pt"
    if container == "zip":
        pw.write_zip(file, pw.pickled(body))
    else:
        pw.write_legacy(file, pw.pickled(body), {})
    read(save(1, tmp_path / "warm.pt", container))
    before = set(sys.modules)
    assert [record["__class__"] for record in read(file)] == [".".join(name) for name in names]
    assert set(sys.modules) == before and not before & {name for name, _ in names[::2]}


# Damage


def small_file(path: Path, container: str) -> bytes:
    """A file with a bit of everything, as small as it gets."""
    base = torch.arange(6.0)
    with module("gone", Kind=thing()):
        item = {
            "a": base[1:3],
            "b": base.reshape(2, 3).t(),
            "c": torch.tensor([True]),
            "d": [1, (2.5, "x"), {3}, b"y"],
            "e": make(sys.modules["gone"].Kind, x=np.float32(1)),
            "f": argparse.Namespace(y=-(2**40)),
        }
        return save(item, path, container, 2 if container == "zip" else 4).read_bytes()


def read_or_refuse(path: Path) -> bool:
    """Whether a file can be read; any exception but the one sentence is an error."""
    try:
        read(path)
    except CheckpointError as error:
        assert str(error).startswith(f"{path} ") and "\n" not in str(error)
        return False
    return True


def anew(file: Path, content: bytes) -> None:
    """Write another file of that name: some file systems wait for the disk when one is emptied and written again."""
    file.unlink()
    file.write_bytes(content)


@both_containers
def test_every_truncation_is_refused(tmp_path: Path, container: str) -> None:
    file = tmp_path / "a.pt"
    whole = small_file(file, container)
    assert read_or_refuse(file)
    for size in range(len(whole)):
        anew(file, whole[:size])
        assert not read_or_refuse(file), f"cut at {size} of {len(whole)}"


@both_containers
def test_any_flipped_byte_gives_a_sentence_or_data(tmp_path: Path, container: str) -> None:
    file = tmp_path / "a.pt"
    whole = small_file(file, container)
    outcomes = []
    for _ in range(3000):
        damaged = bytearray(whole)
        for _ in range(random.choice([1, 1, 1, 2, 4])):
            damaged[random.randrange(len(whole))] = random.randrange(256)
        anew(file, damaged)
        outcomes.append(read_or_refuse(file))
    assert any(outcomes) and not all(outcomes)


@pytest.mark.parametrize("seed", range(4))
def test_random_opcodes_give_a_sentence_or_data(tmp_path: Path, seed: int) -> None:
    pieces = [
        bytes([code]) for code in b"()0123NIJKMUXcbdeaslth.tuRQ}]\x85\x86\x87\x88\x89\x81\x8f\x90\x91\x92\x93\x94"
    ]
    pieces += [pw.value(item) for item in ([], {}, (), "0", 1, -1, 2.5, "storage", "cpu", [1], {"a": 1}, (2, 3))]
    pieces += [
        pw.name("torch", "FloatStorage"),
        pw.name("collections", "OrderedDict"),
        pw.name("a", "B"),
        b"h\x00",
        b"q\x00",
    ]
    pieces += [
        pw.name("torch._utils", "_rebuild_tensor_v2"),
        pw.storage("0", 4),
        pw.tensor(pw.storage("0", 4), 0, (4,), (1,)),
    ]
    draw = random.Random(seed)
    for index in range(500):
        body = b"".join(draw.choices(pieces, k=draw.randrange(1, 30)))
        read_or_refuse(pw.write_zip(tmp_path / f"{index}.pt", pw.pickled(body), {"0": bytes(16)}))


MALFORMED = {
    "nothing on the stack": b"",
    "two on the stack": b"NN",
    "open mark": b"(N",
    "no mark": b"t",
    "too few for a tuple": b"N\x87",
    "no such memo": b"h\x05",
    "memo of nothing": b"q\x00",
    "append to a dict": b"}Na",
    "items of a list": b"]NNs",
    "items of a number": b"K\x01NNs",
    "odd items": b"}(Nu",
    "list and dict items": pw.call("a", "B") + b"Na" + b"NNs",
    "state of a number": b"K\x01Nb",
    "state of a class": pw.name("a", "B") + b"Nb",
    "call of a number": b"K\x01)R",
    "call of an object": pw.call("a", "B") + b")R",
    "arguments that are a list": pw.name("a", "B") + b"]R",
    "class name that is a number": b"K\x01K\x02\x93",
    "bad text": b"X\x02\x00\x00\x00\xff\xfe",
    "name without an end": b"ca\nB",
    "bad name": b"ca\n\xff\n",
    "text beyond the end": b"X\xff\xff\xff\x7fab",
    "negative length": b"T\xff\xff\xff\xff",
    "huge length": b"\x8d" + b"\xff" * 8,
    "unknown opcode": b"\xff",
    "empty": b"",
    "key that is a list": b"}]Ns",
    "key that is a tensor": b"}" + pw.storage("0", 4) + b"Ns",
    "set of lists": b"\x8f(]\x90",
    "frozenset of lists": b"(]\x91",
    "number of a text": pw.call("builtins", "int", pw.value("x")),
    "number of a list": pw.call("builtins", "float", pw.value([1])),
    "number of a long text": pw.call("builtins", "int", pw.value("9" * 5000)),
    "list of a text": pw.call("builtins", "list", pw.value("abc")),
    "two lists": pw.call("builtins", "list", pw.value([]), pw.value([])),
    "dict of a number": pw.call("builtins", "dict", pw.value(1)),
    "bytes in a code": pw.call("_codecs", "encode", pw.value("a"), pw.value("rot13")),
    "bytes of a number": pw.call("_codecs", "encode", pw.value(1), pw.value("latin1")),
    "bytes beyond latin1": pw.call("_codecs", "encode", pw.value("\u20ac"), pw.value("latin1")),
    "numpy scalar too long": pw.call("numpy.core.multiarray", "scalar", pw.value("<f8"), pw.value(b"1" * 9)),
    "numpy scalar of text": pw.call("numpy.core.multiarray", "scalar", pw.value("<f8"), pw.value("1" * 8)),
    "reconstruction of a number": pw.call("copy_reg", "_reconstructor", pw.value(1), pw.value(2), pw.value(3)),
    "parameter of nothing": pw.call("torch._utils", "_rebuild_parameter", pw.value(None), pw.value(True)),
    "tensor of nothing": pw.tensor(pw.value(None), 0, (1,), (1,)),
    "tensor of a tensor": pw.tensor(pw.tensor(pw.storage("0", 4), 0, (2, 2), (2, 1)), 0, (4,), (1,)),
    "tensor without arguments": pw.call("torch._utils", "_rebuild_tensor_v2"),
    "subclass of nothing": pw.call("torch._tensor", "_rebuild_from_type_v2"),
    "storage without a type": pw.group(*map(pw.value, ("storage", "FloatStorage", "0", "cpu", 4))) + b"Q",
    "storage of another kind": pw.storage("0", 4, "QInt8Storage"),
    "storage of negative size": pw.storage("0", -4),
    "storage of a size that is a truth": pw.storage("0", True),
    "storage that is missing": pw.storage("1", 4),
    "storage larger than its member": pw.storage("0", 5),
    "storage larger than memory": pw.storage("0", 2**61),
    "storage described twice": pw.group(pw.storage("0", 4), pw.storage("0", 2)),
    "storage of two dtypes": pw.group(pw.storage("0", 4), pw.storage("0", 4, "IntStorage")),
    "persistent id of a module": pw.group(*map(pw.value, ("module", "a", "b", "c"))) + b"Q",
    "persistent text": b"Pstorage\n",
    "persistent number": b"K\x01Q",
    "instance opcodes": b"(ia\nB\n",
    "object opcodes": b"(" + pw.name("a", "B") + b"o",
    "extension": b"\x82\x01",
    "next buffer": b"\x97",
    "readonly buffer": b"N\x98",
    "protocol 6": b"\x80\x06N",
    "protocol 1": b"\x80\x01N",
    "text opcodes": b"I1\n",
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED)
def test_malformed_pickles_are_refused(tmp_path: Path, body: bytes) -> None:
    assert refused_body(tmp_path, body, {"0": bytes(16)})
    assert not read_or_refuse(pw.write_legacy(tmp_path / "legacy.pt", pw.pickled(body), {"0": (4, bytes(16))}))


@pytest.mark.parametrize(
    ("offset", "shape", "stride"),
    [
        (0, (5,), (1,)),
        (1, (4,), (1,)),
        (5, (0,), (1,)),
        (0, (2, 2), (3, 1)),
        (0, (10**9,), (0,)),
        (0, (5,), (0,)),
        (0, (2,), (-1,)),
        (3, (2,), (-1,)),
        (-1, (1,), (1,)),
        (0, (-1,), (1,)),
        (0, (2**62,), (0,)),
        (0, (2**40, 2**40), (2**24, 0)),
        (0, (2**40, 2**40, 0), (1, 1, 1)),
        (0, (2,), (2**61,)),
        (0, (2, 2), (1,)),
        (0, (2,), (1, 1)),
        (0, (1,) * 100, (1,) * 100),
        (0, (1,), (2**63,)),
        (0, (True,), (1,)),
        (0, (1.0,), (1,)),
        (0.0, (1,), (1,)),
        (True, (1,), (1,)),
        (0, None, (1,)),
        (0, "1", "1"),
        (0, (2,), None),
    ],
)
def test_tensors_outside_their_storage_are_refused(tmp_path: Path, offset: Any, shape: Any, stride: Any) -> None:
    body = pw.tensor(pw.storage("0", 4), offset, shape, stride)
    assert refused_body(tmp_path, body, {"0": bytes(16)})


def test_tensors_that_just_fit(tmp_path: Path) -> None:
    layouts = [(3, (1,), (1,)), (4, (0,), (1,)), (0, (4,), (0,)), (1, (2, 2), (2, 0)), (0, (2, 2), (1, 2)), (2, (), ())]
    body = pw.group(*(pw.tensor(pw.storage("0", 4), *layout) for layout in layouts))
    data = torch.arange(4.0)
    expected = tuple(data.as_strided(shape, stride, offset).clone().contiguous() for offset, shape, stride in layouts)
    same(read_body(tmp_path, body, {"0": data.numpy().tobytes()}), expected)


# Files made to exhaust


NESTS = {
    "lists": lambda many: b"]" * many + b"a" * (many - 1),
    "tuples": lambda many: b")" + b"\x85" * many,
    "marks": lambda many: b"(" * many,
    "dicts": lambda many: b"}" + b"K\x01}" * many + b"s" * many,
    "key of a dict": lambda many: b"}" + b")" + b"\x85" * many + b"Ns",
    "item of a set": lambda many: b"\x8f(" + b")" + b"\x85" * many + b"\x90",
    "arguments": lambda many: pw.name("a", "B") + b"q\x000N" + b"q\x010h\x00h\x01\x85R" * many,
    "attributes": lambda many: pw.name("a", "B") + b"q\x000" + b"h\x00)R" * many + b"b" * (many - 1),
    "omegaconf": lambda many: (
        pw.name("omegaconf.nodes", "AnyNode")
        + b"q\x000"
        + (b"h\x00)R}" + pw.value("_val")) * many
        + b"N"
        + b"sb" * many
    ),
}


@pytest.mark.parametrize("nest", NESTS.values(), ids=NESTS)
def test_deep_nesting_is_refused(tmp_path: Path, nest: Callable[[int], bytes]) -> None:
    assert "deeper than 500 levels" in refused_body(tmp_path, nest(40_000))


def test_nesting_below_the_limit_is_read_with_little_recursion(tmp_path: Path) -> None:
    depth = 400
    got = read_body(tmp_path, b"]" * depth + b"a" * (depth - 1))
    for _ in range(depth - 1):
        (got,) = got
    assert got == []


@pytest.mark.parametrize(
    ("opens", "keyed", "closes"),
    [(b"](", False, b"e"), (b"(", False, b"t"), (b"}(", True, b"u"), (pw.name("a", "B") + b"(", False, b"tR")],
    ids=["lists", "tuples", "dicts", "arguments"],
)
def test_repeated_objects_cannot_fill_the_memory(tmp_path: Path, opens: bytes, keyed: bool, closes: bytes) -> None:
    body = b"]q\x00"
    for level in range(20):
        items = (b"K%ch%c" % (item, level) if keyed else b"h%c" % level for item in range(10))
        body += b"0" + opens + b"".join(items) + closes + b"q%c" % (level + 1)
    assert "repeats its objects" in refused_body(tmp_path, body)


def test_repeated_bytes_cannot_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_unpickle, "MAX_PICKLE_BYTES", 10**6)
    memo = b"q\x000" + pw.value("a" * 10**5) + b"q\x010" + pw.value("latin1") + b"q\x020"
    body = pw.name("_codecs", "encode") + memo + b"](" + b"h\x00h\x01h\x02\x86R" * 11 + b"e"
    assert "spells out more than" in refused_body(tmp_path, body)


@pytest.mark.parametrize(
    "body",
    [
        b"]q\x00h\x00a",
        b"}q\x00K\x01h\x00s",
        b"]q\x00h\x00\x85a",
        pw.call("a", "B") + b"q\x00}X\x01\x00\x00\x00xh\x00sb",
        pw.call("argparse", "Namespace") + b"q\x00}X\x01\x00\x00\x00xh\x00sb",
        pw.call("omegaconf.dictconfig", "DictConfig") + b"q\x00}" + pw.value("_content") + b"h\x00sb",
    ],
)
def test_cycles_are_refused(tmp_path: Path, body: bytes) -> None:
    assert "contains itself" in refused_body(tmp_path, body)


@pytest.mark.parametrize(
    ("limit", "value", "sentence"),
    [
        ("MAX_OPCODES", 20, "more than 20 opcodes"),
        ("MAX_PICKLE_BYTES", 100, "100 bytes"),
        ("MAX_MEMBERS", 2, "more than 2 members"),
        ("MAX_INTEGER_BITS", 16, "more than 16 bits"),
        ("MAX_DEPTH", 2, "deeper than 2 levels"),
        ("SMALL_NODES", -100, "repeats its objects"),
    ],
)
def test_every_limit_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int, sentence: str
) -> None:
    file = save({"a": [[1, 2], [10**6]], "b": torch.ones(2)}, tmp_path / "a.pt")
    assert read_or_refuse(file)
    monkeypatch.setattr(_unpickle, limit, value)
    assert sentence in refusal(file)


def test_declared_sizes_are_not_believed(tmp_path: Path) -> None:
    file = tmp_path / "a.pt"
    bodies = [b"X" + struct.pack("<I", 2**31), b"\x8d" + struct.pack("<Q", 2**40), b"\x8e" + struct.pack("<Q", 2**62)]
    bodies += [b"\x96" + struct.pack("<Q", 2**40), b"\x8b" + struct.pack("<i", 2**30)]
    tracemalloc.start()
    for body in bodies:
        for written in (
            pw.write_zip(file, pw.pickled(body)),
            pw.write_legacy(tmp_path / "b.pt", pw.pickled(body), {}),
        ):
            assert refusal(written)
    assert "instead of" in refusal(pw.write_legacy(file, pw.pickled(pw.storage("k", 4)), {"k": (2**40, bytes(16))}))
    for numel in (2**40, 2**61):
        whole = pw.write_legacy(file, pw.pickled(pw.storage("k", numel)), {"k": (numel, bytes(16))})
        assert "truncated" in refusal(whole)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10 * 2**20


# Containers


def test_zip_members_must_be_plain(tmp_path: Path) -> None:
    file, body = tmp_path / "a.pt", pw.pickled(pw.tensor(pw.storage("0", 4), 0, (4,), (1,)))
    data = {"0": bytes(16)}

    def patched(where: bytes, offset: int, new: bytes) -> Path:
        """The plain file with some bytes of the record that starts with `where` replaced."""
        whole = bytearray(pw.write_zip(file, body, data).read_bytes())
        start = whole.index(where) + offset
        whole[start : start + len(new)] = new
        file.write_bytes(whole)
        return file

    assert read_or_refuse(pw.write_zip(file, body, data))
    for compression in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        assert "compressed member" in refusal(pw.write_zip(file, body, data, compression=compression))
    directory = b"PK\x01\x02"
    assert "encrypted member" in refusal(patched(directory, 8, b"\x01"))
    assert "compressed member" in refusal(patched(directory, 20, struct.pack("<I", 1)))
    assert "no whole member" in refusal(patched(directory, 20, struct.pack("<II", 10**6, 10**6)))
    assert "something else before" in refusal(patched(directory, 42, struct.pack("<I", 2)))
    assert "no whole member" in refusal(patched(b"PK\x03\x04", 28, b"\xff\xff"))
    assert "zip archive" in refusal(patched(b"PK\x05\x06", 12, struct.pack("<I", 2**32 - 10)))
    with pytest.warns(UserWarning, match="Duplicate name"):
        pw.write_zip(file, body, data, members={"data/0": bytes(16)})
    assert "two members of one name" in refusal(file)
    assert "2 data.pkl" in refusal(pw.write_zip(file, body, data, members={"x/data.pkl": body}))
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "0 data.pkl" in refusal(file)
    with zipfile.ZipFile(file, "w"):
        pass
    assert "0 data.pkl" in refusal(file)


@pytest.mark.parametrize("order", [b"big", b"", b"middle", b"little\n", b"x" * 100])
def test_only_little_endian_files_are_read(tmp_path: Path, order: bytes) -> None:
    body = pw.pickled(pw.tensor(pw.storage("0", 1), 0, (1,), (1,)))
    file = pw.write_zip(tmp_path / "a.pt", body, {"0": bytes(4)}, members={"byteorder": order})
    assert "little-endian" in refusal(file)
    assert read_or_refuse(pw.write_zip(tmp_path / "a.pt", body, {"0": bytes(4)}, members={"byteorder": b"little"}))


def test_legacy_parts_must_agree(tmp_path: Path) -> None:
    file, body = tmp_path / "a.pt", pw.pickled(pw.tensor(pw.storage("k", 4), 0, (4,), (1,)))
    good = {"k": (4, bytes(16))}
    assert read_or_refuse(pw.write_legacy(file, body, good))
    assert "little-endian" in refusal(pw.write_legacy(file, body, good, little_endian=False))
    assert "protocol" in refusal(pw.write_legacy(file, body, good, protocol=1000))
    assert "instead of 4" in refusal(pw.write_legacy(file, body, {"k": (3, bytes(12))}))
    assert "instead of 4" in refusal(pw.write_legacy(file, body, {"k": (-4, bytes(16))}))
    assert "other storages" in refusal(pw.write_legacy(file, body, {}))
    assert "other storages" in refusal(pw.write_legacy(file, body, {"j": (4, bytes(16))}))
    assert "other storages" in refusal(pw.write_legacy(file, body, {**good, "j": (4, bytes(16))}))
    assert "truncated" in refusal(pw.write_legacy(file, body, {"k": (4, bytes(15))}))
    file.write_bytes(pw.legacy_head(body, ["k", "k"]) + (struct.pack("<q", 4) + bytes(16)) * 2)
    assert "other storages" in refusal(file)
    for keys in ([1], [["k"]], "k", None):
        file.write_bytes(pw.legacy_head(body, keys) + struct.pack("<q", 4) + bytes(16))  # type: ignore[arg-type]
        assert "no list of storages" in refusal(file)


STRANGERS = {
    "empty": (b"", "is empty"),
    "blank": (b"\n", "is empty"),
    "HTML": (b"\n  <!DOCTYPE html><html>", "is an HTML page, not a checkpoint"),
    "HTML without doctype": (b"<HTML lang=en>", "is an HTML page, not a checkpoint"),
    "Git-LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "run git lfs pull"),
    "safetensors": (struct.pack("<Q", 2) + b"{}", "is a safetensors file"),
    "gzip": (b"\x1f\x8b\x08\x00", "is a gzip file"),
    "tar": (b"sys_info".ljust(257, b"\x00") + b"ustar\x0000", "is a tar archive"),
    "cut zip": (b"PK\x03\x04" + bytes(100), "is a truncated or damaged zip archive"),
    "cut stream": (pw.legacy_head(b"", [])[:20], "is truncated"),
    "bare pickle": (pickle.dumps({"a": 1}, 2), "is not a torch checkpoint"),
    "text": (b"hello", "is not a torch checkpoint: it starts with b'hello'"),
}


@pytest.mark.parametrize(("content", "sentence"), STRANGERS.values(), ids=STRANGERS)
def test_other_files_are_named(tmp_path: Path, content: bytes, sentence: str) -> None:
    file = tmp_path / "a.pt"
    file.write_bytes(content)
    assert sentence in refusal(file)


def test_paths_that_are_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "No such file" in refusal(tmp_path / "none.pt")
    assert "is a folder" in refusal(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert "a device" in refusal(tmp_path / "pipe")
    assert refusal(tmp_path / ("x" * 5000))
    assert refusal(f"{tmp_path}/\x00")
    monkeypatch.chdir(tmp_path)
    assert "No such file" in refusal("./none.pt")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.pt").symlink_to(save([1], tmp_path / "a.pt"))
    assert read(Path("link.pt")) == [1]


# Laziness


class Watched(io.FileIO):
    """A file that notes which bytes were read."""

    ranges: typing.ClassVar[list[tuple[int, int]]] = []

    def readinto(self, buffer: Any) -> int:
        start = self.tell()
        count = super().readinto(buffer)
        self.ranges.append((start, start + count))
        return count


@both_containers
def test_only_what_is_asked_for_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, container: str) -> None:
    wanted, unwanted = torch.randn(1000), torch.full((500_000,), 3.0)
    item = {"model": wanted, "last_optimizer_state": [unwanted, unwanted * 2], "rows": unwanted.reshape(500, 1000) * 3}
    file = save(item, tmp_path / "a.pt", container)
    monkeypatch.setattr(Watched, "ranges", [])
    monkeypatch.setattr(_unpickle.io, "FileIO", Watched)
    with open_torch_file(file) as opened:
        opening = sum(end - start for start, end in Watched.ranges)
        assert opening < 150_000
        same(opened.root["model"].load(), wanted)
        row = opened.root["rows"]
        assert row.nbytes == 2_000_000
        assert sum(end - start for start, end in Watched.ranges) - opening < 30_000
        same(row.load(), item["rows"])
        assert sum(end - start for start, end in Watched.ranges) - opening >= row.nbytes


def test_a_slice_reads_its_own_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = torch.randn(1000, 1000)
    file = save({"row": base[700], "base": base}, tmp_path / "a.pt")
    monkeypatch.setattr(Watched, "ranges", [])
    monkeypatch.setattr(_unpickle.io, "FileIO", Watched)
    with open_torch_file(file) as opened:
        Watched.ranges.clear()
        same(opened.root["row"].load(), base[700].clone())
        assert sum(end - start for start, end in Watched.ranges) < 20_000


def test_gigabytes_of_holes_cost_nothing(tmp_path: Path) -> None:
    numel = 2**30
    file = tmp_path / "a.pt"
    state, weight = (pw.tensor(pw.storage(key, n), 0, (n,), (1,)) for key, n in (("a", numel), ("b", 3)))
    with file.open("wb") as stream:
        stream.write(pw.legacy_head(pw.pickled(pw.group(state, weight)), ["a", "b"]))
        stream.write(struct.pack("<q", numel))
        stream.seek(4 * numel, os.SEEK_CUR)
        stream.write(struct.pack("<q3f", 3, 1, 2, 3))
    tracemalloc.start()
    with open_torch_file(file) as opened:
        same(opened.root[1].load(), torch.tensor([1.0, 2, 3]))
        assert opened.root[0].nbytes == 2**32
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20


@both_containers
def test_loading_after_the_file_has_gone(tmp_path: Path, container: str) -> None:
    file = save([torch.randn(100_000)], tmp_path / "a.pt", container)
    with open_torch_file(file) as opened:
        (lazy,) = opened.root
        os.truncate(file, 200_000)
        with pytest.raises(CheckpointError, match="truncated"):
            lazy.load()
    with pytest.raises(CheckpointError, match="is closed"):
        lazy.load()


def test_a_refused_file_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[io.FileIO] = []
    original = io.FileIO

    def remember(*args: Any) -> io.FileIO:
        opened.append(original(*args))
        return opened[-1]

    monkeypatch.setattr(_unpickle.io, "FileIO", remember)
    file = save([torch.ones(1)], tmp_path / "a.pt")
    file.write_bytes(file.read_bytes()[:-30])
    refusal(file)
    assert opened and all(stream.closed for stream in opened)


def test_the_file_is_a_context(tmp_path: Path) -> None:
    file = open_torch_file(str(save({"a": 1}, tmp_path / "a.pt")))
    assert isinstance(file, TorchFile) and isinstance(file.path, Path)
    with file as entered:
        assert entered is file and entered.root == {"a": 1}
    file.close()
