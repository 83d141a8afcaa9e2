"""Reads torch checkpoint files as data: the pickle inside is parsed, never executed.

Two steps. `_Parser` follows the opcodes and builds an inert graph: a global is a name, a call is a record of the name
and its arguments, a storage is a place in the file. `_Plain` turns the graph into dicts, lists, scalars and
`LazyTensor` leaves. It understands torch's tensor rebuilders, builtin containers, numpy scalars, argparse, omegaconf
and fairseq's dictionary; any other object becomes `{"__class__": name, "args": [...], "state": ..., "items": ...}`
without the parts that are empty.

Nothing that a file names is looked up, imported or called. The names that are refused could do no harm here; refusing
them tells the user that the file was made to attack other readers.

A file may be as complicated as its size explains: a release of gigabytes has millions of opcodes, a small file with as
many was made to exhaust its reader.

Formats: the zip container of torch 1.6 and newer, and the stream of pickles that came before it, both as written by
`torch/serialization.py`.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import re
import struct
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from pickletools import opcodes
from types import NoneType
from typing import IO, Any

import numpy as np
import torch

from zoo.errors import CheckpointError, cut

# What any file may have, and what a file may have that is small.
MAX_PICKLE_BYTES = 256 * 2**20
PIECE_BYTES = 2**20  # read at a time when a tensor is copied
MAX_PIECE_BYTES = 32 * 2**20  # a text in a pickle, the directory of a zip
MAX_OPCODES = 20_000_000  # the largest release, with adapters for 1162 languages, needs about 8 million
SMALL_PICKLE_BYTES = 8 * 2**20  # and a sixteenth of the file
SMALL_PIECE_BYTES = 2 * 2**20  # and a 64th of the file
SMALL_MEMBERS = 10_000  # and one for each 4096 bytes
SMALL_OPCODES = 300_000  # and one for each 256 bytes of the file; a model of 400 tensors needs about 10 000
SMALL_NODES = 100_000  # of plain data, and as many for each opcode; genuine files have less than one for each
MAX_SHARING = 1
MAX_DEPTH = 500
MAX_ODD_KEYS = 1000  # of a dict or set, whose hashes could be made to collide
MAX_MEMBERS = 500_000
MAX_INTEGER_BITS = 1024
MAX_SHORT_CHARS = 400
MAX_ELEMENTS = 2**62
MAX_DIMENSIONS = 64

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001

_STORAGES = {
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
_TENSORS = {"torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"}
_PARAMETERS = {"torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"}

_PYTHON2_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg"}
# Libraries that may be installed where a checkpoint is read, so that a name could call them, and what checkpoints name
# of them. Names of any other library, most of them classes that are gone, are inert.
_PRESENT = sys.stdlib_module_names | set(
    "torch numpy zoo safetensors pip setuptools pkg_resources distutils imp pipes commands popen2 urllib2 cPickle "
    "cloudpickle dill joblib yaml".split()
)
# `_operator.getitem` is how typing.List[int], a type in omegaconf's metadata, is spelt.
_HARMLESS = re.compile(
    r"""builtins\.(object|type|bool|int|long|float|complex|str|unicode|bytes|bytearray|list|tuple|dict|set|frozenset
        |slice|range|xrange|[A-Z]\w*)
      | collections\.(defaultdict|deque|[A-Z]\w*) | copyreg\.(_reconstructor|__newobj__|__newobj_ex__)
      | (abc|dataclasses|decimal|enum|fractions|numbers|pathlib(\._local)?|typing|uuid)\._?[A-Z]\w* | datetime\.\w+
      | _codecs\.encode | _operator\.getitem | argparse\.Namespace | array\.(array|_array_reconstructor)
      | logging\.getLogger | random\.Random | re\._compile | types\.SimpleNamespace
      | numpy\.(dtype|ndarray|matrix|dtypes\.\w+|random\.(_pickle\.\w+|[\w.]*[A-Z]\w*)
        |(u?int|float|complex|bool|str|bytes|object|void|datetime|timedelta)\d*_?
        |_?core\.(multiarray\.(scalar|_reconstruct)|numeric\._frombuffer))
      | torch\.([A-Z]\w*|device|dtype|(b?float|complex|q?u?int)\d+\w*|bool|strided|\w+_format|per_\w+_affine
        |_utils\._rebuild_\w+|_tensor\._rebuild_from_type_v2|serialization\._get_layout
        |(cuda|storage)\.\w*[sS]torage|_C\._nn\.\w+|(nn|optim|amp|cuda\.amp|distributions)\..*)""",
    re.VERBOSE,
)
_OPCODES = {opcode.code.encode("latin1"): opcode for opcode in opcodes}
_VALUES = {"BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINSTRING", "SHORT_BINSTRING", "BYTEARRAY8"}
_VALUES |= {f"{size}{kind}" for size in ("BIN", "SHORT_BIN") for kind in ("UNICODE", "BYTES")}
_VALUES |= {"BINUNICODE8", "BINBYTES8"}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_STRANGERS = (
    (rb"\s*\Z", "is empty: fetch it again"),
    (rb"\s*<(!doctype|html)", "is an HTML page, not a checkpoint: the download was probably refused; fetch it again"),
    (rb"version https://git-lfs\.github\.com/spec/", "is a Git-LFS pointer, not the checkpoint: run git lfs pull"),
    (rb".{5}\0{3}\{", "is a safetensors file, not a torch checkpoint: name it .safetensors"),
    (rb"\x1f\x8b", "is a gzip file, not a torch checkpoint: unpack it first"),
    (rb".{257}ustar", "is a tar archive, not a torch checkpoint of 2018 or later: unpack it, or save it again"),
)
_LEAVES = {bool, int, float, complex, str, bytes, bytearray, NoneType}


class _Refused(Exception):
    """Why a file is refused: what follows its path in the sentence that the user reads."""


class _Damaged(_Refused):
    """A file that says what no writer says."""

    def __str__(self) -> str:
        return f"{super().__str__()}: it is damaged or hostile, fetch it again"


def _show(text: str) -> str:
    """A text of the file, short and printable."""
    return ascii(cut(text))


def _most_piece(size: int) -> int:
    """The longest text in a pickle, and the longest directory of a zip, that a file of `size` bytes may have."""
    return min(MAX_PIECE_BYTES, SMALL_PIECE_BYTES + size // 64)


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < MAX_ELEMENTS


@dataclass(slots=True)
class _Global:
    """A class or function that the file names."""

    name: str


class _Map(list[object]):
    """A dict as key, value, key, value, ...; hashing a key before its depth is known could overflow the C stack."""

    __slots__ = ()


@dataclass(slots=True)
class _Record:
    """A call, and what was put into the result afterwards."""

    name: str
    args: tuple[Any, ...] = ()
    state: Any = None
    filled: Any = None  # with items: a list, or a `_Map` when they have keys


@dataclass(slots=True)
class _Extent:
    """The elements of a storage in the file, from a byte offset on."""

    dtype: torch.dtype
    numel: int
    offset: int = -1

    @property
    def nbytes(self) -> int:
        return self.numel * self.dtype.itemsize


@dataclass(slots=True)
class _Storage:
    """The elements `first` to `first + numel` of an extent."""

    extent: _Extent
    first: int
    numel: int


class _Parser:
    """Follows the opcodes of the pickles of one file; `globals` and `extents` collect what they name."""

    def __init__(self, size: int) -> None:
        """`size` is the file's."""
        self.globals: set[str] = set()
        self.extents: dict[str, _Extent] = {}
        self.opcodes = 0
        self._encoded_bytes = 0
        self._most_opcodes = min(MAX_OPCODES, SMALL_OPCODES + size // 256)
        self._most_bytes = min(MAX_PICKLE_BYTES, SMALL_PICKLE_BYTES + size // 16)
        self._most_piece = _most_piece(size)

    def parse(self, source: IO[bytes]) -> Any:
        """Read one pickle from where `source` stands, and give its raw node."""
        memo: dict[Any, Any] = {}
        stack: list[Any] = []
        below: list[list[Any]] = []  # the stack under each open mark
        start = here = source.tell()
        while opcode := _OPCODES.get(source.read(1)):
            # An argument that is a line of text belongs to protocol 0; torch writes the one of GLOBAL, read below.
            arg = opcode.arg.reader(source) if opcode.arg and opcode.proto > 0 else None
            self.opcodes += 1
            last, here = here, source.tell()
            if here - last > self._most_piece:
                raise _Refused(f"holds a text of more than {self._most_piece} bytes")
            if self.opcodes > self._most_opcodes:
                raise _Refused(f"has a pickle of more than {self._most_opcodes} opcodes, too many for its size")
            if here - start > self._most_bytes:
                self.check_bytes(here - start)
            match opcode.name:
                case "BINPUT" | "LONG_BINPUT":
                    memo[arg] = stack[-1]
                case "BINGET" | "LONG_BINGET":
                    stack.append(memo[arg])
                case "MEMOIZE":
                    memo[len(memo)] = stack[-1]
                case name if name in _VALUES:
                    if isinstance(arg, int) and arg.bit_length() > MAX_INTEGER_BITS:
                        raise _Refused(f"holds an integer of more than {MAX_INTEGER_BITS} bits")
                    if isinstance(arg, str) and not arg.isascii():
                        arg = arg.encode(errors="replace").decode()  # half a surrogate pair could not be printed
                    stack.append(arg)
                case name if name in _CONSTANTS:
                    stack.append(_CONSTANTS[name])
                case "MARK":
                    if len(below) >= MAX_DEPTH:
                        raise _Refused(f"nests its objects deeper than {MAX_DEPTH} levels")
                    below.append(stack)
                    stack = []
                case "TUPLE1" | "TUPLE2" | "TUPLE3":
                    size = int(opcode.name[-1])
                    if len(stack) < size:
                        raise _Damaged("has a pickle that takes more than it has")
                    stack[-size:] = [tuple(stack[-size:])]
                case "TUPLE":
                    stack, items = below.pop(), stack
                    stack.append(tuple(items))
                case "GLOBAL":
                    stack.append(self._global(_line(source), _line(source)))
                case "STACK_GLOBAL":
                    attribute, module = stack.pop(), stack.pop()
                    stack.append(self._global(module, attribute))
                case "BINPERSID":
                    stack.append(self._storage(stack.pop()))
                case "REDUCE" | "NEWOBJ":
                    args, callee = stack.pop(), stack.pop()
                    stack.append(self._call(callee, args))
                case "NEWOBJ_EX":  # keyword arguments are kept as one more positional argument
                    keywords, args, callee = stack.pop(), stack.pop(), stack.pop()
                    stack.append(self._call(callee, args, *([keywords] if keywords else [])))
                case "BUILD":
                    state = stack.pop()
                    if type(stack[-1]) is not _Record:
                        raise _Damaged("sets the attributes of something that has none")
                    stack[-1].state = state
                case "EMPTY_DICT":
                    stack.append(_Map())
                case "SETITEM":
                    value, key = stack.pop(), stack.pop()
                    _fill(stack[-1], _Map, [key, value])
                case "SETITEMS":
                    stack, items = below.pop(), stack
                    _fill(stack[-1], _Map, items)
                case "EMPTY_LIST":
                    stack.append([])
                case "APPEND":
                    item = stack.pop()
                    _fill(stack[-1], list, [item])
                case "APPENDS" | "ADDITEMS":
                    stack, items = below.pop(), stack
                    _fill(stack[-1], list, items)
                case "EMPTY_SET":
                    stack.append(_Record("builtins.set"))
                case "FROZENSET":
                    stack, items = below.pop(), stack
                    stack.append(_Record("builtins.frozenset", (items,)))
                case "POP" if stack:
                    stack.pop()
                case "POP" | "POP_MARK":
                    stack = below.pop()
                case "FRAME":
                    pass
                case "PROTO":
                    if arg not in range(2, 6):
                        raise _Refused(f"has a pickle of protocol {arg}, where torch writes 2 to 5")
                case "STOP":
                    if len(stack) != 1 or below:
                        raise _Damaged("has a pickle that stops within an object")
                    return stack[0]
                case name:
                    raise _Damaged(f"has a pickle with the opcode {name} where torch never writes it")
        raise _Damaged("has a pickle that stops early or holds what is no opcode")

    def check_bytes(self, size: int) -> None:
        """Refuse a pickle of more bytes than a checkpoint of the file's size needs."""
        if size > self._most_bytes:
            raise _Refused(f"has a pickle of more than {self._most_bytes} bytes, too many for its size")

    def _global(self, module: object, attribute: object) -> _Global:
        if type(module) is not str or type(attribute) is not str:
            raise _Damaged("names a class that is not text")
        module = _PYTHON2_MODULES.get(module, module)
        name = f"{module}.{attribute}"
        if module.partition(".")[0] in _PRESENT and not ("." not in attribute and _HARMLESS.fullmatch(name)):
            raise _Refused(f"asks to run code by naming {_show(name)}: nothing was run, and it is not to be trusted")
        if "." in attribute:  # protocols 4 and 5 look for it inside whatever the module has
            raise _Refused(f"names {_show(name)}, which lies inside a class or module: save it again with protocol 2")
        self.globals.add(name)
        return _Global(name)

    def _call(self, callee: object, args: object, *more: object) -> object:
        if type(callee) is not _Global or type(args) is not tuple:
            raise _Damaged("calls something that is not a named class or function")
        args += more
        if callee.name == "_codecs.encode" or (callee.name == "builtins.bytearray" and len(args) == 2):
            return self._encode(*args)
        if callee.name == "copyreg._reconstructor":
            cls, base, state = args
            if type(cls) is not _Global or type(base) is not _Global:
                raise _Damaged("makes an object of something that is not a named class")
            return _Record(cls.name, () if base.name == "builtins.object" else (state,))
        return _Record(callee.name, args)

    def _encode(self, text: object, encoding: object) -> bytes:
        """Bytes, which protocol 2 spells as text and an encoding."""
        if type(text) is not str or encoding not in ("latin1", "latin-1"):
            raise _Damaged("spells bytes in another way than as text in latin1")
        self._encoded_bytes += len(text)
        if self._encoded_bytes > self._most_bytes:
            raise _Refused(f"spells out more than {self._most_bytes} bytes")
        return text.encode("latin1")

    def _storage(self, reference: object) -> _Storage:
        """The storage that ("storage", type, key, location, numel[, view]) refers to."""
        if type(reference) is not tuple or len(reference) not in (5, 6) or reference[0] != "storage":
            raise _Damaged("refers to something outside its pickle that is not a storage")
        _, kind, key, _, numel, view = (*reference, None)[:6]
        if type(kind) is not _Global or type(key) is not str or not _is_count(numel):
            raise _Damaged("has a storage without a type, key or size")
        if kind.name not in _STORAGES:
            raise _Refused(f"has a storage of the unknown type {_show(kind.name)}")
        extent = self.extents.setdefault(key, _Extent(_STORAGES[kind.name], numel))
        if (extent.dtype, extent.numel) != (_STORAGES[kind.name], numel):
            raise _Damaged(f"describes its storage {_show(key)} in two ways")
        if view is None:
            return _Storage(extent, 0, numel)
        _, first, count = view
        if not _is_count(first) or not _is_count(count) or first + count > numel:
            raise _Damaged(f"has a view outside its storage {_show(key)}")
        return _Storage(extent, first, count)


def _line(source: IO[bytes]) -> str:
    line = source.readline(MAX_PIECE_BYTES)
    if not line.endswith(b"\n"):
        raise _Damaged("has a pickle that stops within a name")
    return line[:-1].decode()


def _fill(target: object, kind: type[list[object]], content: list[object]) -> None:
    """Add `content` to a list or `_Map`, or to what a record is filled with."""
    if type(target) is _Record:
        target.filled = kind() if target.filled is None else target.filled
        target = target.filled
    if type(target) is not kind or (kind is _Map and len(content) % 2):
        raise _Damaged("fills something with items that it cannot hold")
    target.extend(content)


def _inert(parts: _Record) -> Any:
    if len(parts.args) == 1 and type(parts.args[0]) in _LEAVES - {NoneType} and not (parts.state or parts.filled):
        return parts.args[0]  # a member of an enum, or a subclass of a scalar
    kept = {"args": list(parts.args), "state": parts.state, "items": parts.filled}
    return {"__class__": parts.name} | {key: value for key, value in kept.items() if value}


def _keys(keys: Sequence[Any]) -> Sequence[Any]:
    """`keys` of a dict or set, with few whose hashes a file can choose."""
    if len(keys) > MAX_ODD_KEYS:
        odd = sum(type(key) is not str and not (type(key) is int and abs(key) < sys.hash_info.modulus) for key in keys)
        if odd > MAX_ODD_KEYS:
            raise _Refused(f"has a dict or set with more than {MAX_ODD_KEYS} keys that are no texts or small numbers")
    return keys


def _dict(parts: _Record) -> dict[Any, Any]:
    # The state of an OrderedDict is the `_metadata` of a state dict, the versions of its modules: not needed.
    (given,) = parts.args or ((),)
    pairs = list(given.items() if isinstance(given, dict) else given)
    _keys([key for key, _ in pairs])
    return {**dict(pairs), **(parts.filled or {})}


def _container(kind: Callable[[Any], Any]) -> Callable[[_Record], Any]:
    def rule(parts: _Record) -> Any:
        content = parts.args[0] if parts.args else ()
        if len(parts.args) > 1 or not isinstance(content, (list, tuple, set, frozenset)):
            raise TypeError("a container is made of one list")
        items = [*content, *(parts.filled or ())]
        return kind(_keys(items) if kind in (set, frozenset) else items)

    return rule


def _short(*texts: Any) -> list[str]:
    """Numbers and short texts as text; copying long ones over and over would fill the memory."""
    if any(type(text) not in (int, float, bool, str) or len(str(text)) > MAX_SHORT_CHARS for text in texts):
        raise TypeError("it is made of numbers and short texts")
    return [str(text) for text in texts]


def _numpy_dtype(parts: _Record) -> str:
    order = parts.state[1] if isinstance(parts.state, tuple) and len(parts.state) > 1 else ""
    return "".join(_short(order, parts.args[0]))


def _numpy_scalar(parts: _Record) -> Any:
    dtype, data = parts.args
    if not isinstance(dtype, str) or not re.fullmatch(r"[<>=|]?(b1|[iu][1248]|f[248]|c8|c16)", dtype):
        return _inert(parts)
    return np.frombuffer(data, np.dtype(dtype)).reshape(()).item()


def _path(parts: _Record) -> str:
    return str(PurePosixPath(*_short(*parts.args)))


_Build = Callable[[list[Any]], Any]
_RULES: dict[str, Callable[[_Record], Any]] = {
    "builtins.list": _container(list),
    "builtins.tuple": _container(tuple),
    "builtins.set": _container(set),
    "builtins.frozenset": _container(frozenset),
    "builtins.dict": _dict,
    "builtins.int": lambda parts: int(*_short(*parts.args)),
    "builtins.long": lambda parts: int(*_short(*parts.args)),
    "builtins.float": lambda parts: float(*_short(*parts.args)),
    "builtins.complex": lambda parts: complex(*map(float, _short(*parts.args))),
    "builtins.bytes": lambda parts: parts.args[0] if parts.args else b"",
    "builtins.bytearray": lambda parts: parts.args[0] if parts.args else b"",
    "collections.OrderedDict": _dict,
    "collections.defaultdict": lambda parts: _dict(_Record(parts.name, parts.args[1:], None, parts.filled)),
    "numpy.dtype": _numpy_dtype,
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy._core.multiarray.scalar": _numpy_scalar,
    "pathlib.Path": _path,
    "pathlib.PosixPath": _path,
    "pathlib._local.PosixPath": _path,  # of Python 3.13
    "torch.Size": _container(tuple),
    "torch.device": lambda parts: ":".join(_short(*parts.args)),
}


class _Plain:
    """Turns an inert graph into plain data; the stack is a list, so depth costs no recursion."""

    def __init__(self, file: TorchFile, opcodes: int) -> None:
        self._file = file
        self._nodes_left = SMALL_NODES + MAX_SHARING * opcodes

    def convert(self, root: object) -> Any:
        # Of each node whose children are being converted: itself, the children left, their values, what unites them.
        frames: list[tuple[Any, Iterator[Any], list[Any], _Build]] = [(None, iter((root,)), [], lambda done: done[0])]
        active: set[int] = set()
        while True:
            parent, children, done, build = frames[-1]
            for node in children:
                self._nodes_left -= 1
                if self._nodes_left < 0:
                    raise _Refused("repeats its objects more often than any checkpoint: it would fill the memory")
                if type(node) in _LEAVES:
                    done.append(node)
                elif type(node) is _Global:
                    done.append(node.name)
                elif type(node) is _Storage:
                    dtype, start = node.extent.dtype, node.extent.offset + node.first * node.extent.dtype.itemsize
                    done.append(LazyTensor(dtype, (node.numel,), (1,), self._file, start))
                else:
                    if id(node) in active:
                        raise _Refused("holds an object that contains itself, which is not plain data")
                    if len(frames) > MAX_DEPTH:
                        raise _Refused(f"nests its objects deeper than {MAX_DEPTH} levels")
                    active.add(id(node))
                    inner, unite = self._open(node)
                    frames.append((node, iter(inner), [], unite))
                    break
            else:
                value = build(done)
                frames.pop()
                active.discard(id(parent))
                if not frames:
                    return value
                frames[-1][2].append(value)

    def _open(self, node: Any) -> tuple[Iterable[Any], _Build]:
        """The children of a node, and what makes its value of theirs."""
        if type(node) in (list, tuple):
            return node, type(node)
        if type(node) is _Map:
            return node, _pairs_to_dict
        name = node.name
        if name.startswith("omegaconf.") and type(node.state) is _Map:
            # Its parent and metadata are left alone: the one is a cycle, the other types that are gone.
            for attribute, value in zip(node.state[::2], node.state[1::2], strict=True):
                if attribute in ("_content", "_val"):
                    return (value,), lambda done: done[0]
        if name == "argparse.Namespace" or name.endswith(".Dictionary"):
            return (node.state or _Map(),), lambda done: done[0]
        return (node.args, node.state, node.filled), lambda done: self._build(_Record(name, *done))

    def _build(self, parts: _Record) -> Any:
        name, args = parts.name, parts.args
        if name == "torch._tensor._rebuild_from_type_v2":  # (function, type, arguments, attributes)
            name, args = args[0], args[2]
        if name in _TENSORS:
            return self._tensor(*args)
        if name in _PARAMETERS:
            if type(args[0]) is not LazyTensor:
                raise _Damaged("has a parameter that is not made of a tensor")
            return args[0]
        if name not in _RULES:
            return _inert(parts)
        self._nodes_left -= sum(len(arg) for arg in args if isinstance(arg, (dict, list, tuple)))  # a rule copies them
        try:
            return _RULES[name](parts)
        except (TypeError, ValueError, LookupError, OverflowError) as error:
            raise _Damaged(f"makes a {name} of something else ({error})") from error

    def _tensor(self, storage: Any, first: Any, shape: Any, stride: Any, *more: Any) -> LazyTensor:
        # `more`: whether it wants a gradient, hooks, and (not in every version) whether its values need a change.
        if type(storage) is not LazyTensor or storage.stride != (1,):
            raise _Damaged("has a tensor without a storage")
        if any(more[2:]):
            raise _Refused("has a tensor whose values are to be conjugated or negated: save it again resolved")
        shape, stride = tuple(shape), tuple(stride)
        if not len(stride) == len(shape) <= MAX_DIMENSIONS or not all(map(_is_count, (first, *shape, *stride))):
            raise _Damaged("has a tensor with an impossible offset, shape or stride")
        numel = math.prod(shape)
        end = first + (_span(shape, stride) if numel else 0)
        if max(end, numel) > storage.numel or math.prod(filter(None, shape)) >= MAX_ELEMENTS:
            raise _Damaged(f"has a tensor of shape {_show(str(shape))} that does not fit into its storage")
        start = storage._start + first * storage.dtype.itemsize
        return LazyTensor(storage.dtype, shape, stride, self._file, start)


def _span(shape: tuple[int, ...], stride: tuple[int, ...]) -> int:
    """Elements from the first to the last of a tensor that is not empty."""
    return 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))


def _pairs_to_dict(flat: list[Any]) -> dict[Any, Any]:
    try:
        return dict(zip(_keys(flat[::2]), flat[1::2], strict=True))
    except TypeError:
        raise _Damaged("has a dict whose key is a container or a tensor") from None


@dataclass
class LazyTensor:
    """A tensor that is still in its file.

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
        """Read the tensor, from its first to its last byte; every call reads anew.

        Returns:
            A contiguous tensor in memory of its own, of this dtype and shape, on the CPU.

        Raises:
            CheckpointError: The file was closed, or cut since it was opened.
        """
        if not self.numel:
            return torch.empty(self.shape, dtype=self.dtype)
        with self._file._sentences():
            data = self._file._read(self._start, _span(self.shape, self.stride) * self.dtype.itemsize)
            flat = torch.frombuffer(data, dtype=self.dtype)
            view = flat.as_strided(self.shape, self.stride)
            return flat.view(self.shape) if view.is_contiguous() else view.contiguous()

    def pieces(self) -> Iterator[memoryview]:
        """The bytes of the tensor in memory order, whole elements at a time, each good until the next.

        Raises:
            CheckpointError: The file was closed, or cut since it was opened.
        """
        if not _in_order(self.shape, self.stride):
            yield self.load().view(-1).view(torch.uint8).numpy().data
            return
        left = self.nbytes
        buffer = memoryview(bytearray(min(left, PIECE_BYTES)))
        while left:
            piece = buffer[: min(left, len(buffer))]
            with self._file._sentences():
                self._file._read_into(self._start + self.nbytes - left, piece)
            left -= len(piece)
            yield piece


def _in_order(shape: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    """Whether the elements of a tensor lie in the order of its indices, without gaps."""
    step = 1
    for size, found in zip(reversed(shape), reversed(stride)):
        if size != 1 and found != step:
            return False
        step *= size
    return True


class _Stream(io.BufferedReader):
    """A file that gives all that was asked for or refuses, and trusts no declared length."""

    def __init__(self, raw: io.FileIO) -> None:
        super().__init__(raw)
        self.size = os.fstat(raw.fileno()).st_size
        self._most = _most_piece(self.size)

    def read(self, size: int | None = -1) -> bytes:
        size = -1 if size is None else size
        if size > self._most:
            raise _Damaged(f"declares a piece of {size} bytes, where at most {self._most} make sense")
        data = super().read(size)
        if len(data) < size:
            raise _Refused("ends too early: it is truncated, fetch it again")
        return data


class TorchFile:
    """An open torch checkpoint; `open_torch_file` makes it, `close` or the end of a `with` closes it.

    Not for several threads at once.

    Attributes:
        path: The file.
        container: "zip" or "legacy".
        globals: Every "module.name" that its pickles name, sorted.
        root: What it holds: dicts, lists, tuples, sets, scalars and `LazyTensor`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._shown = os.fspath(path)
        with contextlib.ExitStack() as unless_read, self._sentences():
            self.container = _sniff(self.path)
            self._stream = unless_read.enter_context(_Stream(io.FileIO(self.path)))
            self._size = self._stream.size
            parser = _Parser(self._size)
            raw = self._parse_zip(parser) if self.container == "zip" else self._parse_legacy(parser)
            self.globals = tuple(sorted(parser.globals))
            self.root: Any = _Plain(self, parser.opcodes).convert(raw)
            unless_read.pop_all()

    def __enter__(self) -> TorchFile:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; its tensors cannot be loaded any more."""
        self._stream.close()

    @contextlib.contextmanager
    def _sentences(self) -> Iterator[None]:
        """Turn whatever a bad file can cause into one sentence that starts with its path."""
        try:
            yield
        except _Refused as refusal:
            raise CheckpointError(f"{self._shown} {refusal}") from refusal.__cause__
        except zipfile.BadZipFile as error:
            raise CheckpointError(f"{self._shown} is a truncated or damaged zip archive: fetch it again") from error
        except OSError as error:
            raise CheckpointError(f"{self._shown} cannot be read: {error.strerror or error}") from error
        except MemoryError as error:
            raise CheckpointError(f"{self._shown} needs more memory than there is") from error
        except (ValueError, TypeError, LookupError, OverflowError, RuntimeError, struct.error) as error:
            raise CheckpointError(f"{self._shown} {_Damaged(f'cannot be parsed ({error})')}") from error

    def _read(self, offset: int, nbytes: int) -> bytearray:
        data = bytearray(nbytes)
        self._read_into(offset, memoryview(data))
        return data

    def _read_into(self, offset: int, data: memoryview) -> None:
        if self._stream.closed:
            raise _Refused("is closed: load its tensors before that")
        self._stream.seek(offset)
        if self._stream.readinto(data) < len(data):
            raise _Refused("ends too early: it is truncated, fetch it again")

    def _parse_zip(self, parser: _Parser) -> object:
        self._stream.seek(max(self._size - 22, 0))
        if self._stream.read(4) != b"PK\5\6":  # nothing may come after the archive's end
            raise zipfile.BadZipFile
        with zipfile.ZipFile(self._stream) as archive:
            members = {member.filename: member for member in archive.infolist()}
            if len(members) < len(archive.infolist()):
                raise _Damaged("has two members of one name")
        if len(members) > (most := min(MAX_MEMBERS, SMALL_MEMBERS + self._size // 4096)):
            raise _Refused(f"has more than {most} members, too many for its size")
        for name, member in members.items():
            if member.flag_bits & 0x41:
                raise _Refused(f"has the encrypted member {_show(name)}: decrypt and pack it again")
            if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
                raise _Refused(f"has the compressed member {_show(name)}: pack it again without compression")
        pickles = [name for name in members if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise _Refused(f"is a zip archive with {len(pickles)} data.pkl, where a torch checkpoint has one")
        folder = pickles[0].removesuffix("data.pkl")
        if strange := [n for n in members if not n.startswith(folder) or ".." in n.split("/") or "\\" in n]:
            raise _Damaged(f"has the member {_show(strange[0])} outside its folder {_show(folder)}")
        places = self._locate(members.values())
        if folder + "byteorder" in members:
            offset, size = places[folder + "byteorder"]
            if self._read(offset, min(size, 16)) != b"little":
                raise _Refused("was not written by a little-endian machine: save it again on one")
        offset, size = places[pickles[0]]
        parser.check_bytes(size)
        source = io.BytesIO(self._read(offset, size))
        raw = parser.parse(source)
        if source.tell() != size:
            raise _Damaged("has a pickle that ends before its member does")
        for key, extent in parser.extents.items():
            extent.offset, size = places.get(f"{folder}data/{key}", (0, -1))
            if size < extent.nbytes:
                raise _Damaged(f"lacks bytes of its storage {_show(key)}")
        return raw

    def _locate(self, members: Iterable[zipfile.ZipInfo]) -> dict[str, tuple[int, int]]:
        """Name -> offset and size of each member's data, which comes after a header of its own."""
        places: dict[str, tuple[int, int]] = {}
        end = 0
        for member in sorted(members, key=lambda member: member.header_offset):
            if member.header_offset < end or (not places and member.header_offset):
                raise _Damaged(f"has something else before its member {_show(member.filename)}, or within it")
            self._stream.seek(member.header_offset)
            signature, name_bytes, extra_bytes = struct.unpack("<4s22xHH", self._stream.read(30))
            name = self._stream.read(name_bytes)
            offset = member.header_offset + 30 + name_bytes + extra_bytes
            end = offset + member.file_size
            if signature != b"PK\x03\x04" or end > self._size:
                raise _Damaged(f"has no whole member {_show(member.filename)} where its directory says")
            if name.decode("utf-8" if member.flag_bits & 0x800 else "cp437") != member.orig_filename:
                raise _Damaged(f"has the member {_show(member.filename)} under two names")
            places[member.filename] = offset, member.file_size
        return places

    def _parse_legacy(self, parser: _Parser) -> object:
        if parser.parse(self._stream) != _LEGACY_MAGIC or parser.parse(self._stream) != _LEGACY_PROTOCOL:
            raise _Damaged("starts like a torch checkpoint but has another protocol than 1001")
        system = parser.parse(self._stream)
        if type(system) is not _Map or ("little_endian", True) not in zip(system[::2], system[1::2], strict=True):
            raise _Refused("was not written by a little-endian machine: save it again on one")
        raw = parser.parse(self._stream)
        keys = parser.parse(self._stream)
        if type(keys) is not list or not all(type(key) is str for key in keys):
            raise _Damaged("has no list of storages after its pickle")
        if len(set(keys)) < len(keys) or set(keys) != set(parser.extents):
            raise _Damaged("lists other storages than its tensors use")
        for key in keys:
            extent = parser.extents[key]
            (numel,) = struct.unpack("<q", self._stream.read(8))
            if numel != extent.numel:
                raise _Damaged(f"has {numel} elements in its storage {_show(key)} instead of {extent.numel}")
            extent.offset = self._stream.tell()
            if extent.offset + extent.nbytes > self._size:
                raise _Refused("ends too early: it is truncated, fetch it again")
            self._stream.seek(extent.nbytes, os.SEEK_CUR)
        if self._stream.tell() != self._size:
            raise _Damaged("goes on after its last storage")
        return raw


def open_torch_file(path: str | os.PathLike[str]) -> TorchFile:
    """Open a checkpoint that `torch.save` wrote, in either container, without running any of it.

    The pickle is read whole; a tensor is read when its `load` is called.

    Args:
        path: The file.

    Returns:
        The open file; use it in a `with` statement.

    Raises:
        CheckpointError: It cannot be read, is not a torch checkpoint, is damaged, too large or asks to run code.
    """
    return TorchFile(path)


def _sniff(path: Path) -> str:
    """The container of a file, from its first bytes."""
    if path.exists() and not path.is_file():
        raise _Refused("is a folder or a device, where a checkpoint file was expected")
    with path.open("rb") as stream:
        head = stream.read(1024)
    if head.startswith(b"PK"):
        return "zip"
    if head.startswith(b"\x80") and _LEGACY_MAGIC.to_bytes(10, "little") in head[:32]:
        return "legacy"
    for pattern, sentence in _STRANGERS:
        if re.match(pattern, head, re.IGNORECASE | re.DOTALL):
            raise _Refused(sentence)
    raise _Refused(f"is not a torch checkpoint: it starts with {head[:8]!r}; give the original file")
