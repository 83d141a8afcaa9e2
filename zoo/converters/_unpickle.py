"""Reads torch checkpoint files as data: the pickle inside is parsed, never executed.

Two steps. `_Parser` follows the opcodes and builds an inert graph: a global is a name, a call is a record of the name
and its arguments, a storage is a place in the file. `_Plain` turns the graph into dicts, lists, scalars and
`LazyTensor` leaves; it understands torch's tensor rebuilders, builtin containers, numpy scalars, argparse, omegaconf
and fairseq's dictionary, and keeps everything else as `{"__class__": ..., "args": ..., "state": ..., "items": ...}`.
Nothing that a file names is looked up, imported or called, so the list of refused names below protects nobody from
being run; it tells the user that the file was made to attack other readers.

Formats: the zip container of torch 1.6 and newer, and the stream of pickles before it (`torch/serialization.py`).
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import re
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from pickletools import genops
from types import NoneType, TracebackType
from typing import IO, Any

import numpy as np
import torch

from zoo.errors import CheckpointError

MAX_PICKLE_BYTES = 256 * 2**20
MAX_PIECE_BYTES = 32 * 2**20  # one string of a pickle in a stream, or the directory of a zip
MAX_OPCODES = 20_000_000  # the largest release, with adapters for 1162 languages, has about 8 million
MAX_NODES = 20_000_000
MAX_SHARING = 16  # nodes of plain data for each opcode, beyond the first million
MAX_DEPTH = 500
MAX_MEMBERS = 500_000
MAX_INTEGER_BITS = 1024
MAX_NUMBER_CHARS = 400
MAX_ELEMENTS = 2**62
MAX_DIMENSIONS = 64

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001

_STORAGE_DTYPES = {
    "torch.FloatStorage": torch.float32,
    "torch.DoubleStorage": torch.float64,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
    "torch.ComplexFloatStorage": torch.complex64,
    "torch.ComplexDoubleStorage": torch.complex128,
    "torch.UntypedStorage": torch.uint8,
    "torch.storage.UntypedStorage": torch.uint8,
}
_DTYPES = {str(dtype): dtype for dtype in (*_STORAGE_DTYPES.values(), torch.uint16, torch.uint32, torch.uint64)} | {
    str(dtype): dtype for dtype in (torch.float8_e4m3fn, torch.float8_e5m2)
}

_PYTHON2_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg"}
_REFUSED_MODULES = frozenset(
    "os posix nt subprocess sys io _io importlib runpy operator _operator shutil socket ctypes pty webbrowser types "
    "commands popen2 pickle _pickle cPickle marshal code codeop pdb timeit asyncio multiprocessing pip".split()
)
_REFUSED_NAMES = frozenset({"functools.partial", "torch.load", "torch.hub.load"}) | {
    f"builtins.{name}"
    for name in "getattr setattr delattr eval exec execfile compile open file input __import__ apply globals locals "
    "vars breakpoint".split()
}
_ALLOWED_NAMES = frozenset({"_operator.getitem"})  # how typing.List[int], a type in omegaconf's metadata, is spelt

_PUSHED_ARGUMENTS = frozenset(
    "BININT BININT1 BININT2 LONG1 LONG4 BINFLOAT BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINSTRING SHORT_BINSTRING "
    "BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8".split()
)
_PUSHED_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_LEAVES = frozenset({NoneType, bool, int, float, complex, str, bytes, bytearray})


class _Refused(Exception):
    """Why a file is refused: what follows its path in the sentence that the user reads."""


# --------------------------------------------------------------------------------------------------------------------
# The inert graph. Containers hold raw nodes, so nothing is hashed or compared before the depth is known.


@dataclass(slots=True)
class _Global:
    """A class or function that the file names."""

    name: str


class _Map(list[object]):
    """A dict, as key, value, key, value, ..."""

    __slots__ = ()


@dataclass(slots=True)
class _Record:
    """A call of something, with what was put into the result afterwards."""

    name: str
    args: tuple[object, ...] = ()
    state: object = None
    pairs: _Map | None = None
    appended: list[object] | None = None


@dataclass(slots=True)
class _Extent:
    """The elements of one storage in the file; the offset is in bytes."""

    dtype: torch.dtype
    numel: int
    offset: int = -1

    @property
    def nbytes(self) -> int:
        return self.numel * self.dtype.itemsize


@dataclass(slots=True)
class _Storage:
    """A storage, or elements `first` to `first + numel` of one."""

    extent: _Extent
    first: int
    numel: int


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < MAX_ELEMENTS


def _show(value: object) -> str:
    """A name from the file, short and printable."""
    text = ascii(value)
    return text if len(text) <= 120 else text[:117] + "..."


class _Parser:
    """Follows the opcodes of one file's pickles; `globals` and `extents` collect what they name."""

    def __init__(self) -> None:
        self.globals: set[str] = set()
        self.extents: dict[str, _Extent] = {}
        self.opcodes = 0
        self._encoded_bytes = 0

    def parse(self, source: IO[bytes]) -> Any:
        """Read one pickle from where `source` stands, up to its end, and return its raw node."""
        memo: dict[int, object] = {}
        stack: list[Any] = []
        outer: list[list[Any]] = []  # the stacks below each open mark
        start = source.tell()
        for opcode, arg, position in genops(source):
            self.opcodes += 1
            if self.opcodes > MAX_OPCODES:
                raise _Refused(f"has a pickle of more than {MAX_OPCODES} opcodes: no checkpoint needs that")
            if position is None or position - start > MAX_PICKLE_BYTES:
                raise _Refused(f"has a pickle of more than {MAX_PICKLE_BYTES} bytes: no checkpoint needs that")
            name = opcode.name
            if name in _PUSHED_ARGUMENTS:
                if type(arg) is int and arg.bit_length() > MAX_INTEGER_BITS:
                    raise _Refused(f"holds an integer of {arg.bit_length()} bits: no checkpoint needs that")
                stack.append(arg)
                continue
            if name in _PUSHED_CONSTANTS:
                stack.append(_PUSHED_CONSTANTS[name])
                continue
            match name:
                case "BINPUT" | "LONG_BINPUT":
                    memo[arg] = stack[-1]  # type: ignore[index]
                case "MEMOIZE":
                    memo[len(memo)] = stack[-1]
                case "BINGET" | "LONG_BINGET":
                    stack.append(memo[arg])  # type: ignore[index]
                case "MARK":
                    if len(outer) >= MAX_DEPTH:
                        raise _Refused(f"nests deeper than {MAX_DEPTH} levels: no checkpoint needs that")
                    outer.append(stack)
                    stack = []
                case "TUPLE":
                    stack, items = outer.pop(), stack
                    stack.append(tuple(items))
                case "TUPLE1":
                    stack.append((stack.pop(),))
                case "TUPLE2":
                    second, first = stack.pop(), stack.pop()
                    stack.append((first, second))
                case "TUPLE3":
                    third, second, first = stack.pop(), stack.pop(), stack.pop()
                    stack.append((first, second, third))
                case "GLOBAL":
                    module, _, attribute = str(arg).partition(" ")
                    stack.append(self._global(module, attribute))
                case "STACK_GLOBAL":
                    attribute, module = stack.pop(), stack.pop()
                    stack.append(self._global(module, attribute))
                case "BINPERSID":
                    stack.append(self._storage(stack.pop()))
                case "REDUCE" | "NEWOBJ":
                    args, callee = stack.pop(), stack.pop()
                    stack.append(self._call(callee, args))
                case "NEWOBJ_EX":
                    kwargs, args, callee = stack.pop(), stack.pop(), stack.pop()
                    stack.append(self._call(callee, (*args, kwargs) if kwargs else args))
                case "BUILD":
                    state = stack.pop()
                    if type(stack[-1]) is not _Record:
                        raise _Refused("sets the attributes of something that has none: it is damaged")
                    stack[-1].state = state
                case "EMPTY_DICT":
                    stack.append(_Map())
                case "SETITEM":
                    value, key = stack.pop(), stack.pop()
                    _set_items(stack[-1], [key, value])
                case "SETITEMS":
                    stack, items = outer.pop(), stack
                    _set_items(stack[-1], items)
                case "EMPTY_LIST":
                    stack.append([])
                case "APPEND":
                    item = stack.pop()
                    _append(stack[-1], [item])
                case "EMPTY_SET":
                    stack.append(_Record("builtins.set"))
                case "APPENDS" | "ADDITEMS":
                    stack, items = outer.pop(), stack
                    _append(stack[-1], items)
                case "FROZENSET":
                    stack, items = outer.pop(), stack
                    stack.append(_Record("builtins.frozenset", (items,)))
                case "POP":
                    if stack:
                        stack.pop()
                    else:
                        stack = outer.pop()
                case "POP_MARK":
                    stack = outer.pop()
                case "FRAME":
                    pass
                case "PROTO":
                    if arg not in range(2, 6):
                        raise _Refused(f"has a pickle of protocol {arg}, where torch writes 2 to 5: it is damaged")
                case "STOP":
                    if outer or len(stack) != 1:
                        raise _Refused("has a pickle that ends in the middle of an object: it is damaged")
                    return stack[0]
                case _:
                    raise _Refused(f"uses the pickle opcode {name}, which torch never writes: it is damaged or hostile")
        raise _Refused("has a pickle without an end: it is damaged")

    def _global(self, module: object, attribute: object) -> _Global:
        if type(module) is not str or type(attribute) is not str:
            raise _Refused("names a class that is not text: it is damaged")
        name = f"{_PYTHON2_MODULES.get(module, module)}.{attribute}"
        if name not in _ALLOWED_NAMES and (name in _REFUSED_NAMES or name.partition(".")[0] in _REFUSED_MODULES):
            raise _Refused(
                f"asks to run code: it names {_show(name)}; nothing was run, and the file is not to be trusted"
            )
        self.globals.add(name)
        return _Global(name)

    def _call(self, callee: object, args: object) -> object:
        if type(callee) is not _Global or type(args) is not tuple:
            raise _Refused("calls something that is not a named class or function: it is damaged or hostile")
        name = callee.name
        if name == "_codecs.encode" or (name == "builtins.bytearray" and len(args) == 2):
            return self._encode(*args)
        if name == "copyreg._reconstructor":
            cls, base, state = args
            if type(cls) is not _Global or type(base) is not _Global:
                raise _Refused("makes an object of something that is not a named class: it is damaged or hostile")
            return _Record(cls.name, () if base.name == "builtins.object" else (state,))
        return _Record(name, args)

    def _encode(self, text: str, encoding: str) -> bytes:
        """Bytes, which protocol 2 spells as text and the order to encode it."""
        if type(encoding) is not str or encoding.replace("-", "").replace("_", "").lower() not in (
            "latin1",
            "iso88591",
        ):
            raise _Refused(f"spells bytes in the encoding {_show(encoding)}, where pickle uses latin1: it is damaged")
        if type(text) is not str:
            raise _Refused("spells bytes by something that is not text: it is damaged")
        self._encoded_bytes += len(text)
        if self._encoded_bytes > MAX_PICKLE_BYTES:
            raise _Refused(f"spells out more than {MAX_PICKLE_BYTES} bytes: no checkpoint needs that")
        return text.encode("latin1")

    def _storage(self, reference: object) -> _Storage:
        """The storage of ("storage", type, key, location, numel[, view])."""
        if type(reference) is not tuple or len(reference) not in (5, 6) or reference[0] != "storage":
            raise _Refused("refers to something outside the pickle that is not a storage: it is damaged or hostile")
        _, kind, key, _, numel, view = (*reference, None)[:6]
        if type(kind) is not _Global or kind.name not in _STORAGE_DTYPES:
            shown = _show(kind.name) if type(kind) is _Global else "no name"
            raise _Refused(f"has a storage of the type {shown}, which is not one of those known")
        if type(key) is not str or not _is_count(numel):
            raise _Refused("has a storage without a key or size: it is damaged")
        dtype = _STORAGE_DTYPES[kind.name]
        extent = self.extents.setdefault(key, _Extent(dtype, numel))
        if extent.dtype != dtype or extent.numel != numel:
            raise _Refused(f"describes its storage {_show(key)} in two ways: it is damaged")
        if view is None:
            return _Storage(extent, 0, numel)
        _, first, count = view
        if not _is_count(first) or not _is_count(count) or first + count > numel:
            raise _Refused(f"has a view outside its storage {_show(key)}: it is damaged")
        return _Storage(extent, first, count)


def _set_items(target: object, flat: list[object]) -> None:
    if len(flat) % 2:
        raise _Refused("has a dict with a key and no value: it is damaged")
    if type(target) is _Record:
        target.pairs = target.pairs if target.pairs is not None else _Map()
        target.pairs.extend(flat)
    elif type(target) is _Map:
        target.extend(flat)
    else:
        raise _Refused("sets items of something that is not a dict: it is damaged")


def _append(target: object, items: list[object]) -> None:
    if type(target) is _Record:
        target.appended = target.appended if target.appended is not None else []
        target.appended.extend(items)
    elif type(target) is list:
        target.extend(items)
    else:
        raise _Refused("appends to something that is not a list: it is damaged")


# --------------------------------------------------------------------------------------------------------------------
# Plain data. A rule gets the parts of a record as plain data: arguments, state, items set by key, items appended.


def _inert(name: str, args: tuple[Any, ...], state: Any, pairs: dict[Any, Any], items: list[Any]) -> Any:
    if len(args) == 1 and type(args[0]) in (str, int, float, bool, bytes) and not (state or pairs or items):
        return args[0]  # a member of an enum, a subclass of a scalar
    if pairs and items:
        raise _Refused(f"fills a {_show(name)} both as a dict and as a list: it is damaged")
    parts = {"args": list(args), "state": state, "items": pairs or items}
    return {"__class__": name} | {key: value for key, value in parts.items() if value}


def _dict(args: tuple[Any, ...], state: Any, pairs: dict[Any, Any], items: list[Any]) -> dict[Any, Any]:
    return {**dict(*args), **pairs}


def _elements(args: tuple[Any, ...], items: list[Any]) -> list[Any]:
    content = args[0] if args else ()
    if len(args) > 1 or not isinstance(content, (list, tuple, set, frozenset)):
        raise TypeError("a container is made of one list")
    return [*content, *items]


def _number(kind: Callable[..., Any]) -> Callable[..., Any]:
    def rule(args: tuple[Any, ...], state: Any, pairs: dict[Any, Any], items: list[Any]) -> Any:
        if any(type(arg) not in (int, float, bool, str) or len(str(arg)) > MAX_NUMBER_CHARS for arg in args):
            raise TypeError("a number is made of a number or a short text")
        return kind(*args)

    return rule


def _text(args: tuple[Any, ...], state: Any, pairs: dict[Any, Any], items: list[Any]) -> str:
    (value,) = args or ("",)
    if type(value) not in (str, int, float, bool, NoneType):
        raise TypeError("text is made of a scalar")
    return str(value)


def _bytes(args: tuple[Any, ...], state: Any, pairs: dict[Any, Any], items: list[Any]) -> bytes | bytearray:
    (value,) = args or (b"",)
    if not isinstance(value, (bytes, bytearray)):
        raise TypeError("bytes are made of bytes")
    return value


def _numpy_dtype(args: tuple[Any, ...], state: Any, pairs: dict[Any, Any], items: list[Any]) -> str:
    order = state[1] if isinstance(state, tuple) and len(state) > 1 else ""
    return f"{order}{args[0]}"


def _numpy_scalar(args: tuple[Any, ...], state: Any, pairs: dict[Any, Any], items: list[Any]) -> Any:
    dtype, data = args
    if not isinstance(dtype, str) or not re.fullmatch(r"[<>=|]?(b1|[iu][1248]|f[248]|c8|c16)", dtype):
        return _inert("numpy.core.multiarray.scalar", args, state, pairs, items)
    return np.frombuffer(data, np.dtype(dtype)).reshape(()).item()


def _device(args: tuple[Any, ...], state: Any, pairs: dict[Any, Any], items: list[Any]) -> str:
    return ":".join(_text((arg,), None, {}, []) for arg in args)


def _path(args: tuple[Any, ...], state: Any, pairs: dict[Any, Any], items: list[Any]) -> str:
    return str(PurePosixPath(*args))


_RULES: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _dict,  # its state is the `_metadata` of a state dict: versions of modules
    "collections.defaultdict": lambda args, state, pairs, items: _dict(args[1:], state, pairs, items),
    "builtins.dict": _dict,
    "builtins.list": lambda args, state, pairs, items: _elements(args, items),
    "builtins.tuple": lambda args, state, pairs, items: tuple(_elements(args, items)),
    "builtins.set": lambda args, state, pairs, items: set(_elements(args, items)),
    "builtins.frozenset": lambda args, state, pairs, items: frozenset(_elements(args, items)),
    "builtins.int": _number(int),
    "builtins.long": _number(int),
    "builtins.float": _number(float),
    "builtins.complex": _number(complex),
    "builtins.bool": _number(bool),
    "builtins.str": _text,
    "builtins.unicode": _text,
    "builtins.bytes": _bytes,
    "builtins.bytearray": _bytes,
    "numpy.dtype": _numpy_dtype,
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy._core.multiarray.scalar": _numpy_scalar,
    "torch.Size": lambda args, state, pairs, items: tuple(_elements(args, items)),
    "torch.device": _device,
    "pathlib.Path": _path,
    "pathlib.PosixPath": _path,
    "pathlib.PurePosixPath": _path,
}
_TENSORS = {f"torch._utils._rebuild_tensor{version}" for version in ("", "_v2", "_v3")}
_PARAMETERS = {"torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"}


@dataclass(slots=True)
class _Frame:
    """A node whose children are being converted."""

    node: object
    children: Iterator[object]
    build: Callable[[list[Any]], Any]
    done: list[Any] = field(default_factory=list)


class _Plain:
    """Turns an inert graph into plain data, with a stack of its own so that depth costs no recursion."""

    def __init__(self, file: TorchFile, opcodes: int) -> None:
        self._file = file
        self._left = min(MAX_NODES, 1_000_000 + MAX_SHARING * opcodes)

    def convert(self, root: object) -> Any:
        frames = [_Frame(None, iter((root,)), lambda done: done[0])]
        active: set[int] = set()
        while True:
            frame = frames[-1]
            for node in frame.children:
                self._left -= 1
                if self._left < 0:
                    raise _Refused("repeats its objects until they fill the memory: it is hostile")
                if type(node) in _LEAVES:
                    frame.done.append(node)
                elif type(node) is _Global:
                    frame.done.append(node.name)
                elif type(node) is _Storage:
                    frame.done.append(self._whole(node))
                else:
                    if id(node) in active:
                        raise _Refused("holds an object that contains itself: no checkpoint needs that")
                    if len(frames) > MAX_DEPTH:
                        raise _Refused(f"nests deeper than {MAX_DEPTH} levels: no checkpoint needs that")
                    active.add(id(node))
                    frames.append(_Frame(node, *self._open(node)))
                    break
            else:
                value = frame.build(frame.done)
                frames.pop()
                active.discard(id(frame.node))
                if not frames:
                    return value
                frames[-1].done.append(value)

    def _open(self, node: Any) -> tuple[Iterator[object], Callable[[list[Any]], Any]]:
        """The children of a node, and what makes its value of theirs."""
        if type(node) is list:
            return iter(node), list
        if type(node) is tuple:
            return iter(node), tuple
        if type(node) is _Map:
            return iter(node), _pairs_to_dict
        name = node.name
        if name.startswith("omegaconf.") and type(node.state) is _Map:
            attributes = dict(zip(map(_attribute, node.state[::2]), node.state[1::2], strict=True))
            for payload in ("_content", "_val"):  # of a container or union, of a value
                if payload in attributes:
                    return iter((attributes[payload],)), lambda done: done[0]
        if name == "argparse.Namespace" or name.endswith(".Dictionary"):
            return iter((node.state,)), lambda done: _attributes(name, done[0])
        parts = (node.args, node.state, node.pairs or _Map(), node.appended or [])
        return iter(parts), lambda done: self._build(name, *done)

    def _build(self, name: str, args: tuple[Any, ...], state: Any, pairs: dict[Any, Any], items: list[Any]) -> Any:
        if name == "torch._tensor._rebuild_from_type_v2" and args[0] in _TENSORS | _PARAMETERS:
            name, args = args[0], args[2]
        if name in _TENSORS:
            return self._tensor(name, *args)
        if name in _PARAMETERS:
            if type(args[0]) is not LazyTensor:
                raise _Refused("has a parameter that is not made of a tensor: it is damaged")
            return args[0]
        if name in _RULES:
            try:
                return _RULES[name](args, state, pairs, items)
            except (TypeError, ValueError, OverflowError, IndexError) as error:
                raise _Refused(f"makes a {name} of something else ({error}): it is damaged") from error
        return _inert(name, args, state, pairs, items)

    def _whole(self, storage: _Storage) -> LazyTensor:
        dtype = storage.extent.dtype
        start = storage.extent.offset + storage.first * dtype.itemsize
        return LazyTensor(dtype, (storage.numel,), (1,), self._file, start)

    def _tensor(
        self,
        name: str,
        storage: Any,
        first: Any,
        shape: Any,
        stride: Any,
        grad: Any = None,
        hooks: Any = None,
        *rest: Any,
    ) -> LazyTensor:
        if type(storage) is not LazyTensor or storage.stride != (1,):
            raise _Refused("has a tensor without a storage: it is damaged")
        dtype = storage.dtype
        if name.endswith("_v3"):
            if not rest or rest[0] not in _DTYPES:
                raise _Refused("has a tensor of an unknown dtype")
            dtype, rest = _DTYPES[rest[0]], rest[1:]
        if rest and rest[0]:
            raise _Refused("has a tensor whose values are lazily conjugated or negated: save it again resolved")
        shape, stride = tuple(shape), tuple(stride)
        if (
            len(shape) != len(stride)
            or len(shape) > MAX_DIMENSIONS
            or not all(map(_is_count, (first, *shape, *stride)))
        ):
            raise _Refused("has a tensor whose offset, shape or strides cannot be: it is damaged")
        numel = math.prod(shape)
        last = first + sum((size - 1) * step for size, step in zip(shape, stride, strict=True)) if numel else first - 1
        available = storage.nbytes // dtype.itemsize
        if last >= available or numel > available or math.prod(filter(None, shape)) >= MAX_ELEMENTS:
            raise _Refused(
                f"has a tensor of shape {_show(shape)} that does not fit its storage: it is damaged or hostile"
            )
        return LazyTensor(dtype, shape, stride, self._file, storage._start + first * dtype.itemsize)


def _attribute(key: object) -> str:
    if type(key) is not str:
        raise _Refused("has an attribute whose name is not text: it is damaged")
    return key


def _attributes(name: str, state: Any) -> dict[Any, Any]:
    if state is not None and not isinstance(state, dict):
        raise _Refused(f"has a {_show(name)} whose attributes are not a dict: it is damaged")
    return state or {}


def _pairs_to_dict(flat: list[Any]) -> dict[Any, Any]:
    try:
        return dict(zip(flat[::2], flat[1::2], strict=True))
    except TypeError:
        raise _Refused("has a dict whose key is a container or a tensor: it is damaged") from None


# --------------------------------------------------------------------------------------------------------------------
# Files


@dataclass
class LazyTensor:
    """A tensor that is still in the file.

    Attributes:
        dtype: Its dtype as stored.
        shape: Its sizes.
        stride: Its strides in the file, in elements; what `load` gives is contiguous.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    _file: TorchFile = field(repr=False)
    _start: int = field(repr=False)

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the elements."""
        return self.numel * self.dtype.itemsize

    def load(self) -> torch.Tensor:
        """Read the tensor from the file.

        Only the bytes from its first to its last element are read, each time anew.

        Returns:
            A contiguous tensor in memory of its own, of this dtype and shape, on the CPU.

        Raises:
            CheckpointError: The file was closed, or has changed since it was opened.
        """
        with _sentences(self._file._shown):
            if not self.numel:
                return torch.empty(self.shape, dtype=self.dtype)
            # A dimension of size 1 may have any stride.
            stride = tuple(step if size > 1 else 0 for size, step in zip(self.shape, self.stride, strict=True))
            span = 1 + sum((size - 1) * step for size, step in zip(self.shape, stride, strict=True))
            flat = torch.frombuffer(self._file._read(self._start, span * self.dtype.itemsize), dtype=self.dtype)
            view = flat.as_strided(self.shape, stride)
            return flat.view(self.shape) if view.is_contiguous() else view.contiguous()


class _Stream(io.BufferedReader):
    """A file that gives what was asked for or refuses, so that no declared length is trusted."""

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > MAX_PIECE_BYTES:
            raise _Refused(
                f"declares a piece of {size} bytes where at most {MAX_PIECE_BYTES} make sense: it is damaged"
            )
        data = super().read(size)
        if size is not None and len(data) < size:
            raise _Refused("ends early: it is truncated, fetch it again")
        return data

    def readline(self, size: int | None = -1) -> bytes:
        return super().readline(MAX_PIECE_BYTES)


class TorchFile:
    """An open torch checkpoint; made by `open_torch_file`, closed by `close` or at the end of a `with`.

    Not for use from several threads at once.

    Attributes:
        path: The file.
        container: "zip" or "legacy".
        globals: Every "module.name" that its pickles name, sorted.
        root: What it holds, as dicts, lists, scalars and `LazyTensor`.
    """

    path: Path
    container: str
    globals: tuple[str, ...]
    root: Any

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open and parse `path`; see `open_torch_file`."""
        self.path = Path(path)
        self._shown = os.fspath(path)
        with contextlib.ExitStack() as on_failure, _sentences(self._shown):
            self.container = _sniff(self.path)
            self._stream = on_failure.enter_context(_Stream(io.FileIO(self.path)))
            self._size = os.fstat(self._stream.fileno()).st_size
            parser = _Parser()
            raw = self._parse_zip(parser) if self.container == "zip" else self._parse_legacy(parser)
            self.globals = tuple(sorted(parser.globals))
            self.root = _Plain(self, parser.opcodes).convert(raw)
            on_failure.pop_all()

    def __enter__(self) -> TorchFile:
        """Give the file itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self.close()

    def close(self) -> None:
        """Close the file; its tensors cannot be loaded any more."""
        self._stream.close()

    def _read(self, offset: int, nbytes: int) -> bytearray:
        if self._stream.closed:
            raise _Refused("is closed: load its tensors before closing it")
        buffer = bytearray(nbytes)
        self._stream.seek(offset)
        if self._stream.readinto(buffer) != nbytes:
            raise _Refused("has become shorter since it was opened")
        return buffer

    def _parse_zip(self, parser: _Parser) -> object:
        with zipfile.ZipFile(self._stream) as archive:
            members = archive.infolist()
        if len(members) > MAX_MEMBERS:
            raise _Refused(f"has more than {MAX_MEMBERS} members: no checkpoint needs that")
        by_name = {member.filename: member for member in members}
        if len(by_name) < len(members):
            raise _Refused("has two members of one name: it is damaged or hostile")
        for member in members:
            if member.flag_bits & 0x41:
                raise _Refused(f"has the encrypted member {_show(member.filename)}, which torch never writes")
            if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
                raise _Refused(
                    f"has the compressed member {_show(member.filename)}, where torch writes stored ones only: "
                    "pack it again without compression"
                )
            if member.file_size > self._size:
                raise _Refused(f"declares its member {_show(member.filename)} larger than the file: it is damaged")
        pickles = [name for name in by_name if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise _Refused(f"is a zip archive with {len(pickles)} data.pkl where a torch checkpoint has one")
        folder = pickles[0].removesuffix("data.pkl")
        if folder + "byteorder" in by_name:
            offset, size = self._locate(by_name[folder + "byteorder"])
            if (order := self._read(offset, min(size, 16))) != b"little":
                raise _Refused(f"has the byte order {_show(bytes(order))} where only b'little' is read: save it again")
        offset, size = self._locate(by_name[pickles[0]])
        if size > MAX_PICKLE_BYTES:
            raise _Refused(f"has a pickle of more than {MAX_PICKLE_BYTES} bytes: no checkpoint needs that")
        raw = parser.parse(io.BytesIO(self._read(offset, size)))
        for key, extent in parser.extents.items():
            storage = by_name.get(f"{folder}data/{key}")
            if storage is None or storage.file_size < extent.nbytes:
                raise _Refused(f"lacks the bytes of its storage {_show(key)}: it is damaged")
            extent.offset, _ = self._locate(storage)
        return raw

    def _locate(self, member: zipfile.ZipInfo) -> tuple[int, int]:
        """Offset and size of a member's data, from the header in front of it."""
        self._stream.seek(member.header_offset)
        signature, name_bytes, extra_bytes = struct.unpack("<4s22xHH", self._stream.read(30))
        offset = member.header_offset + 30 + name_bytes + extra_bytes
        if signature != b"PK\x03\x04" or offset + member.file_size > self._size:
            raise _Refused(f"has no whole member {_show(member.filename)} where its directory says: it is damaged")
        return offset, member.file_size

    def _parse_legacy(self, parser: _Parser) -> object:
        if parser.parse(self._stream) != _LEGACY_MAGIC or parser.parse(self._stream) != _LEGACY_PROTOCOL:
            raise _Refused("starts like a torch checkpoint of a protocol that nobody wrote: it is damaged")
        system = parser.parse(self._stream)
        if type(system) is not _Map or ("little_endian", True) not in zip(system[::2], system[1::2], strict=True):
            raise _Refused("was not written by a little-endian machine: save it again on one")
        raw = parser.parse(self._stream)
        keys = parser.parse(self._stream)
        if type(keys) is not list or not all(type(key) is str for key in keys):
            raise _Refused("has no list of storages after its pickle: it is damaged")
        if len(set(keys)) < len(keys) or set(keys) != set(parser.extents):
            raise _Refused("lists other storages than its tensors use: it is damaged")
        for key in keys:
            extent = parser.extents[key]
            (numel,) = struct.unpack("<q", self._stream.read(8))
            extent.offset = self._stream.tell()
            if numel != extent.numel:
                raise _Refused(
                    f"has {numel} elements in its storage {_show(key)} instead of {extent.numel}: it is damaged"
                )
            if extent.offset + extent.nbytes > self._size:
                raise _Refused("ends early: it is truncated, fetch it again")
            self._stream.seek(extent.nbytes, os.SEEK_CUR)
        return raw


def open_torch_file(path: str | os.PathLike[str]) -> TorchFile:
    """Open a checkpoint that `torch.save` wrote, in either container, without running any of it.

    The pickle is read whole; tensors are read when their `load` is called.

    Args:
        path: The file.

    Returns:
        The open file; use it in a `with` statement.

    Raises:
        CheckpointError: It cannot be read, is not a torch checkpoint, is damaged, or asks to run code.
    """
    return TorchFile(path)


def _sniff(path: Path) -> str:
    """The container of a file, from its first bytes."""
    if path.is_dir():
        raise _Refused("is a folder where a checkpoint file was expected")
    if not path.exists():
        raise _Refused("does not exist")
    if not path.is_file():
        raise _Refused("is not a regular file")
    with path.open("rb") as stream:
        head = stream.read(1024)
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if head.startswith(b"PK"):
        return "zip"
    if head.startswith(b"\x80") and _LEGACY_MAGIC.to_bytes(10, "little") in head[:32]:
        return "legacy"
    if not head:
        raise _Refused("is empty: fetch it again")
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        kind = "XML" if text.startswith(b"<?xml") else "HTML"
        raise _Refused(f"is an {kind} page, not a checkpoint: the download was probably refused; fetch it again")
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        raise _Refused("is a Git-LFS pointer, not the checkpoint itself: run git lfs pull")
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= path.stat().st_size:
        raise _Refused("is a safetensors file, not a torch checkpoint: name it .safetensors")
    if head.startswith(b"\x1f\x8b"):
        raise _Refused("is compressed with gzip: unpack it first")
    if head[257:262] == b"ustar":
        raise _Refused("is a tar archive (an archive around a checkpoint, or torch's oldest format): unpack it first")
    raise _Refused(f"is not a torch checkpoint: it starts with {_show(head[:8])}")


@contextlib.contextmanager
def _sentences(shown: str) -> Iterator[None]:
    """Turn whatever a bad file can cause into one sentence that starts with its path."""
    try:
        yield
    except _Refused as refusal:
        raise CheckpointError(f"{shown} {refusal}") from refusal.__cause__
    except zipfile.BadZipFile as error:
        raise CheckpointError(f"{shown} is a truncated or damaged zip archive ({error}): fetch it again") from error
    except OSError as error:
        raise CheckpointError(f"{shown} cannot be read: {error.strerror or error}") from error
    except MemoryError as error:
        raise CheckpointError(f"{shown} needs more memory than there is") from error
    except (ValueError, TypeError, LookupError, OverflowError, RuntimeError, struct.error) as error:
        raise CheckpointError(f"{shown} is truncated, damaged or hostile: {error}") from error
