"""Files that mean harm: a table of names, each with what makes the file, and words of the sentence that refuses it.

A payload that ran would make the file `ran` in the current folder. Most files are genuine checkpoints but for one
thing, so that the refusal can only be of that thing.
"""

from __future__ import annotations

import io
import json
import math
import os
import pickle
import pickletools
import shutil
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tests import pickle_writer as pw
from tests.trees import Tree, read
from zoo import _native
from zoo.converters import open_conversion

DATA = Path(__file__).resolve().parents[1] / "data"
Make = Callable[[Path], Path]


@dataclass(frozen=True)
class Case:
    """A hostile file.

    Attributes:
        make: writes it into an empty folder and gives its path.
        words: of the sentence.
        tensors: whether they must be read to see it, which `--inspect` does not.
        loaded: words of the sentence of `zoo.load`, where they are others.
    """

    make: Make
    words: str
    tensors: bool = False
    loaded: str = ""


CASES: dict[str, Case] = {}


def add(name: str, make: Make, words: str, tensors: bool = False, loaded: str = "") -> None:
    assert name not in CASES, name
    CASES[name] = Case(make, words, tensors, loaded or words)


# Genuine files, taken apart


def members(name: str = "e3_resolved") -> dict[str, bytes]:
    """The members of a genuine zip."""
    with zipfile.ZipFile(DATA / f"{name}.pt") as archive:
        return {member: archive.read(member) for member in archive.namelist()}


def write(path: Path, content: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for member, data in content.items():
            archive.writestr(member, data)
    return path


def with_pickle(folder: Path, data: bytes, storages: dict[str, bytes] | None = None) -> Path:
    """A genuine zip with another pickle, and more storages."""
    more = {f"archive/data/{key}": content for key, content in (storages or {}).items()}
    return write(folder / "file.pt", {**members(), "archive/data.pkl": data, **more})


def with_item(payload: bytes, storages: dict[str, bytes] | None = None, protocol: int = 2) -> Make:
    """A genuine zip whose dictionary holds one thing more."""

    def make(folder: Path) -> Path:
        genuine = members()["archive/data.pkl"]
        body = genuine[2:-1] + pw.value("payload") + payload + b"s"
        return with_pickle(folder, pw.pickled(body, protocol), storages)

    return make


def legacy_parts() -> tuple[list[bytes], bytes]:
    """The five pickles of a genuine stream, and its storages."""
    stream = io.BytesIO((DATA / "e0_namespace_legacy.pt").read_bytes())
    pickles = []
    for _ in range(5):
        start = stream.tell()
        for _opcode in pickletools.genops(stream):
            pass
        end = stream.tell()
        stream.seek(start)
        pickles.append(stream.read(end - start))
    return pickles, stream.read()


def legacy(edit: Callable[[list[bytes], bytes], bytes]) -> Make:
    def make(folder: Path) -> Path:
        (folder / "file.pt").write_bytes(edit(*legacy_parts()))
        return folder / "file.pt"

    return make


def with_legacy_item(payload: bytes) -> Make:
    def make(folder: Path) -> Path:
        pickles, storages = legacy_parts()
        pickles[3] = pickles[3][:-1] + pw.value("payload") + payload + b"s."
        (folder / "file.pt").write_bytes(b"".join(pickles) + storages)
        return folder / "file.pt"

    return make


def plain(content: bytes, name: str = "file.pt") -> Make:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def body(content: bytes, storages: dict[str, bytes] | None = None, **more: Any) -> Make:
    """A zip with nothing else."""
    return lambda folder: pw.write_zip(folder / "file.pt", pw.pickled(content), storages, **more)


def edited(change: Callable[[Tree], object], base: str = "e3_resolved") -> Make:
    """A genuine checkpoint with its content changed and saved again."""

    def make(folder: Path) -> Path:
        root = read(DATA / f"{base}.pt" if "/" not in base else DATA / base)
        change(root)
        torch.save(root, folder / "file.pt")
        return folder / "file.pt"

    return make


# Names that run code

TOUCH = "open('ran', 'w')"
NAMES: list[tuple[str, str, tuple[Any, ...]]] = [
    ("os", "system", ("touch ran",)),
    ("posix", "system", ("touch ran",)),
    ("nt", "system", ("touch ran",)),
    ("os", "popen", ("touch ran",)),
    ("os", "mkdir", ("ran",)),
    ("os", "execv", ("/bin/touch", ["touch", "ran"])),
    ("os", "spawnlp", (0, "touch", "touch", "ran")),
    ("subprocess", "Popen", (["touch", "ran"],)),
    ("subprocess", "check_output", (["touch", "ran"],)),
    ("pty", "spawn", (["touch", "ran"],)),
    ("shutil", "copyfile", ("/etc/hostname", "ran")),
    ("socket", "create_connection", (("127.0.0.1", 9),)),
    ("builtins", "eval", (TOUCH,)),
    ("builtins", "exec", (TOUCH,)),
    ("builtins", "compile", (TOUCH, "x", "exec")),
    ("builtins", "open", ("ran", "w")),
    ("builtins", "getattr", (1, "real")),
    ("builtins", "__import__", ("antigravity",)),
    ("__builtin__", "execfile", ("ran",)),
    ("builtins", "map", (1, 2)),
    ("functools", "partial", (1, 2)),
    ("functools", "reduce", (1, 2)),
    ("importlib", "import_module", ("antigravity",)),
    ("importlib.util", "spec_from_file_location", ("a", "ran")),
    ("runpy", "run_path", ("ran",)),
    ("runpy", "_run_code", (TOUCH, {})),
    ("pydoc", "locate", ("antigravity",)),
    ("pydoc", "pipepager", ("x", "touch ran")),
    ("timeit", "timeit", (TOUCH,)),
    ("code", "interact", ()),
    ("cProfile", "run", (TOUCH,)),
    ("bdb", "Bdb", ()),
    ("pdb", "run", (TOUCH,)),
    ("doctest", "script_from_examples", (TOUCH,)),
    ("logging", "FileHandler", ("ran",)),
    ("tempfile", "mkstemp", ()),
    ("zipfile", "ZipFile", ("ran", "w")),
    ("sqlite3", "connect", ("ran",)),
    ("ctypes", "CDLL", ("libc.so.6",)),
    ("multiprocessing.util", "spawnv_passfds", (b"/bin/touch", ["touch", "ran"], ())),
    ("asyncio", "run", (1,)),
    ("pickle", "loads", (b"cos\nsystem\n(S'touch ran'\ntR.",)),
    ("_pickle", "Unpickler", (1,)),
    ("marshal", "loads", (b"",)),
    ("types", "FunctionType", (1, {})),
    ("operator", "methodcaller", ("system", "touch ran")),
    ("_operator", "attrgetter", ("system",)),
    ("typing", "get_type_hints", (1,)),
    ("collections", "namedtuple", ("a", "b")),
    ("torch", "load", ("ran",)),
    ("torch", "save", (1, "ran")),
    ("torch.hub", "load", ("a/b", "c")),
    ("torch.serialization", "load", ("ran",)),
    ("torch.storage", "_load_from_bytes", (b"cos\nsystem\n(S'touch ran'\ntR.",)),
    ("torch.utils.benchmark", "Timer", (TOUCH,)),
    ("torch.utils.collect_env", "run", ("touch ran",)),
    ("torch.jit", "load", ("ran",)),
    ("torch.package", "PackageImporter", ("ran",)),
    ("torch.utils.cpp_extension", "load_inline", ("a", "b")),
    ("torch._inductor.codecache", "write", (1, "ran")),
    ("torch.distributed.rpc.internal", "_run_function", (1,)),
    ("numpy", "load", ("ran",)),
    ("numpy", "save", ("ran", 1)),
    ("numpy.testing._private.utils", "runstring", (TOUCH, {})),
    ("numpy.f2py.diagnose", "run_command", ("touch ran",)),
    ("numpy.ctypeslib", "load_library", ("a", "ran")),
    ("joblib", "load", ("ran",)),
    ("cloudpickle", "loads", (b"",)),
    ("yaml", "unsafe_load", ("!!python/object/apply:os.system ['touch ran']",)),
    ("commands", "getoutput", ("touch ran",)),
    ("zoo", "load", ("ran",)),
    ("zoo.convert", "main", (["ran"],)),
]
# Names with a dot in the attribute, which protocols 4 and 5 follow from object to object.
DOTTED = [
    ("os", "path.os.system"),
    ("torch", "os.system"),
    ("torch.nn", "functional.importlib.import_module"),
    ("numpy", "f2py.os.system"),
    ("collections", "abc.sys.modules"),
    ("builtins", "object.__subclasses__"),
    ("builtins", "int.__class__.__base__"),
    ("pathlib", "Path.touch"),
    ("fairseq.tasks", "os.system"),
    ("gone.module", "Outer.__init__.__globals__"),
]


def call(module: str, attribute: str, arguments: tuple[Any, ...], protocol: int) -> bytes:
    """A call as each protocol spells it."""
    if protocol == 0:
        return pw.name(module, attribute) + b"(" + b"".join(f"V{item}\n".encode() for item in arguments) + b"tR"
    target = pw.name(module, attribute)
    if protocol > 3:
        target = pw.value(module) + pw.value(attribute) + b"\x93"
    return target + b"(" + b"".join(map(pw.value, arguments)) + b"tR"


for index, (module, attribute, arguments) in enumerate(NAMES):
    protocol = index % 6
    payload = call(module, attribute, arguments, protocol)
    kind = (with_item if index % 4 else with_legacy_item)(payload)
    add(f"{module}.{attribute} by protocol {protocol}", kind, "asks to run code by naming")
for module, attribute in DOTTED:
    words = "asks to run code|lies inside a class or module"
    add(f"{module}:{attribute}", with_item(call(module, attribute, ("touch ran",), 4), protocol=4), words)
SYSTEM = "asks to run code by naming 'os.system'"
add("the whole file calls, protocol 0", plain(b"cos\nsystem\n(Vtouch ran\ntR."), "is not a torch checkpoint")
add("the whole pickle calls, protocol 0", body(b"cos\nsystem\n(Vtouch ran\ntR"), SYSTEM)
add("INST", with_item(b"(Vtouch ran\nios\nsystem\n"), "the opcode")
add("OBJ", with_item(b"(cos\nsystem\nVtouch ran\no"), SYSTEM)
add("OBJ of a class that is gone", with_item(b"(cgone\nKind\nK\x01o"), "the opcode OBJ")
add("NEWOBJ", with_item(b"cos\nsystem\n)\x81"), SYSTEM)
add("NEWOBJ_EX", with_item(pw.value("os") + pw.value("system") + b"\x93)}\x92", protocol=4), SYSTEM)
add("extension registry", with_item(b"\x82\x01"), "the opcode EXT1")
add("persistent id by text", with_item(b"Pos.system\n"), "the opcode PERSID")
add("out-of-band buffer", with_item(b"\x97", protocol=5), "the opcode NEXT_BUFFER")
add("protocol 6", with_item(b"\x80\x06N"), "protocol 6")
add("setter that calls", with_item(pw.name("os", "system") + b")R}" + pw.value("a") + b"Nsb"), SYSTEM)
add("in the argument of a tensor", with_item(pw.tensor(pw.call("os", "system"), 0, (1,), (1,))), SYSTEM)
add("as a key", with_item(b"}" + pw.call("os", "system") + b"Ns"), SYSTEM)
add("behind a POP", with_item(pw.call("os", "system") + b"0N"), SYSTEM)
add("as a storage's type", with_item(pw.group(pw.value("storage"), pw.name("os", "system")) + b"Q"), SYSTEM)
add(
    "rebuilt by a type",
    with_item(pw.call("torch._tensor", "_rebuild_from_type_v2", pw.name("os", "system"), b"N", b")", b"N")),
    SYSTEM,
)
add(
    "the sum of two names",
    with_item(pw.call("collections", "defaultdict", pw.name("subprocess", "Popen"))),
    "asks to run code",
)


# Rebuilders used wrongly, and tensors outside their storages

FOUR = {"s": bytes(16)}
REBUILT: dict[str, bytes] = {
    "tensor without arguments": pw.call("torch._utils", "_rebuild_tensor_v2"),
    "tensor of text": pw.tensor(pw.value("s"), 0, (1,), (1,)),
    "tensor of a tensor": pw.tensor(pw.tensor(pw.storage("s", 4), 0, (2, 2), (2, 1)), 0, (4,), (1,)),
    "parameter of a list": pw.call("torch._utils", "_rebuild_parameter", b"]", pw.value(True), b"N"),
    "parameter without arguments": pw.call("torch._utils", "_rebuild_parameter"),
    "type without arguments": pw.call("torch._tensor", "_rebuild_from_type_v2"),
    "dict of a number": pw.call("collections", "OrderedDict", pw.value(1)),
    "dict of texts": pw.call("collections", "OrderedDict", pw.value(["a", "b"])),
    "set of lists": pw.call("builtins", "set", pw.value([[1]])),
    "list of text": pw.call("builtins", "list", pw.value("abc")),
    "int of a huge text": pw.call("builtins", "int", pw.value("9" * 100_000)),
    "float of a dict": pw.call("builtins", "float", b"}"),
    "complex of a list": pw.call("builtins", "complex", b"]"),
    "bytes by another codec": pw.call("_codecs", "encode", pw.value("x"), pw.value("zlib")),
    "numpy scalar too short": pw.call("numpy.core.multiarray", "scalar", pw.value("<f8"), pw.value(b"1")),
    "numpy dtype of an object": pw.call("numpy", "dtype", pw.value([("a", "O")])),
    "device of a dict": pw.call("torch", "device", b"}"),
    "size of text": pw.call("torch", "Size", pw.value("abc")),
    "path of numbers": pw.call("pathlib", "PosixPath", pw.value([1])),
    "reconstruction of text": pw.call("copyreg", "_reconstructor", pw.value("a"), pw.value("b"), b"N"),
    "call of a tensor": pw.tensor(pw.storage("s", 4), 0, (4,), (1,)) + b")R",
    "call with a list": pw.name("gone", "Kind") + b"]R",
    "call of what a call gave": pw.call("gone", "Kind") + b")R",
    "items of a tensor": pw.tensor(pw.storage("s", 4), 0, (4,), (1,))[:-1] + b"t]NNs",
    "state of a list": b"]}b",
    "a conjugated tensor": pw.call(
        "torch._utils",
        "_rebuild_tensor_v2",
        pw.storage("s", 4),
        *map(pw.value, (0, (1,), (1,), False, None, {"conj": True})),
    ),
    "storage of stride 0, too large": pw.tensor(pw.storage("s", 4), 0, (10**9,), (0,)),
    "storage, offset beyond": pw.tensor(pw.storage("s", 4), 4, (1,), (1,)),
    "storage, negative offset": pw.tensor(pw.storage("s", 4), -1, (1,), (1,)),
    "storage, negative stride": pw.tensor(pw.storage("s", 4), 3, (2,), (-1,)),
    "storage, negative size": pw.tensor(pw.storage("s", 4), 0, (-1,), (1,)),
    "storage, size that overflows": pw.tensor(pw.storage("s", 4), 0, (2**32, 2**32), (0, 0)),
    "storage, stride that overflows": pw.tensor(pw.storage("s", 4), 0, (2, 2), (2**63, 1)),
    "storage, empty and huge": pw.tensor(pw.storage("s", 4), 0, (0, 2**40, 2**40), (1, 1, 1)),
    "storage, true for 1": pw.tensor(pw.storage("s", 4), 0, (True,), (1,)),
    "storage, a hundred axes": pw.tensor(pw.storage("s", 4), 0, (1,) * 100, (1,) * 100),
    "storage, float offset": pw.tensor(pw.storage("s", 4), 0.0, (1,), (1,)),
    "storage, short": pw.tensor(pw.storage("s", 5), 0, (1,), (1,)),
    "storage, larger than memory": pw.storage("s", 2**61),
    "storage, negative": pw.storage("s", -4),
    "storage, missing": pw.storage("t", 4),
    "storage, in the pickle itself": pw.storage("../data.pkl", 4),
    "storage, of an absolute path": pw.storage("/etc/hostname", 1, "ByteStorage"),
    "storage, described twice": pw.group(pw.storage("s", 4), pw.storage("s", 3)),
    "storage, of two dtypes": pw.group(pw.storage("s", 4), pw.storage("s", 4, "IntStorage")),
    "storage, of an unknown type": pw.storage("s", 4, "QInt8Storage"),
    "storage, a module instead": pw.group(*map(pw.value, ("module", "a", "b", "c"))) + b"Q",
    "storage, view beyond": pw.storage("s", 4, "FloatStorage", pw.value(("v", 3, 2))),
}
BAD = (
    "damaged or hostile|cannot be parsed|does not fit into its storage|unknown type|save it again|lacks bytes|"
    "conjugated|instead of"
)
for name, payload in REBUILT.items():
    add(name, with_item(payload, FOUR), BAD)


# Bombs


def laughs(opens: bytes, closes: bytes, keyed: bool = False) -> bytes:
    """Twenty levels, each of ten times the level below."""
    content = b"]q\x00"
    for level in range(20):
        items = (b"K%ch%c" % (item, level) if keyed else b"h%c" % level for item in range(10))
        content += b"0" + opens + b"".join(items) + closes + b"q%c" % (level + 1)
    return content


def collisions(keys: Iterator[bytes]) -> bytes:
    return b"}(" + b"".join(key + b"N" for key in keys) + b"u"


MODULUS = (1 << 61) - 1
BOMBS: dict[str, tuple[bytes, str]] = {
    "billion laughs of lists": (laughs(b"](", b"e"), "repeats its objects"),
    "billion laughs of tuples": (laughs(b"(", b"t"), "repeats its objects"),
    "billion laughs of dicts": (laughs(b"}(", b"u", keyed=True), "repeats its objects"),
    "billion laughs of objects": (laughs(pw.name("a", "B") + b"(", b"tR"), "repeats its objects"),
    "nested dicts that are copied": (
        b"}("
        + b"".join(pw.value(f"{i}") + b"N" for i in range(60_000))
        + b"u"
        # an OrderedDict of an OrderedDict of ...
        + b"q\x000"
        + pw.name("collections", "OrderedDict") * 200
        + b"h\x00"
        + b"\x85R" * 200,
        "repeats its objects|deeper than",
    ),
    "deep lists": (b"]" * 100_000 + b"a" * 99_999, "deeper than 500 levels"),
    "deep tuples": (b")" + b"\x85" * 100_000, "deeper than 500 levels"),
    "deep marks": (b"(" * 100_000, "deeper than 500 levels"),
    "deep keys": (b"}" + b")" + b"\x85" * 100_000 + b"Ns", "deeper than 500 levels"),
    "deep arguments": (
        pw.name("a", "B") + b"q\x000N" + b"q\x010h\x00h\x01\x85R" * 40_000,
        "deeper than 500 levels",
    ),
    "a list in itself": (b"]q\x00h\x00a", "contains itself"),
    "colliding numbers": (collisions(pw.value(i * MODULUS) for i in range(1, 20_000)), "keys that are no texts"),
    "colliding tuples": (
        collisions(b"(" + b"".join(pw.value(-1 - (i >> bit & 1)) for bit in range(13)) + b"t" for i in range(1 << 13)),
        "keys that are no texts",
    ),
    "a million opcodes": (b"N0" * 1_000_000 + b"N", "too many for its size"),
    "a million lists": (b"](" + b"]" * 1_000_000 + b"e", "too many for its size"),
    "a text of 1 GB declared": (b"X" + struct.pack("<I", 2**30), "truncated|ends too early|cannot be parsed"),
    "bytes of 4 EB declared": (b"\x8e" + struct.pack("<Q", 2**62), "damaged or hostile|cannot be parsed"),
    "a bytearray of 1 TB declared": (b"\x96" + struct.pack("<Q", 2**40), "damaged or hostile|cannot be parsed"),
    "a text of 10 MB": (pw.value("x" * 10_000_000), "too many for its size|holds a text"),
    "a text of 7 MB in wide characters": (pw.value("\U0001f600" + "x" * 7_000_000), "holds a text of more"),
    "a number of 100 000 bits": (b"\x8b" + struct.pack("<I", 12_500) + b"\x7f" * 12_500, "more than 1024 bits"),
    "a number with a huge length": (b"\x8b" + struct.pack("<i", 2**30), "cannot be parsed"),
    "a number of negative length": (b"\x8b" + struct.pack("<i", -5), "cannot be parsed"),
    "a frame of 1 EB": (b"\x95" + struct.pack("<Q", 2**60) + b"", "stops within|damaged"),
    "a memo of 4 billion": (b"Nr" + b"\xff" * 4 + b"0j" + b"\xfe" * 4, "cannot be parsed"),
}
for name, (payload, words) in BOMBS.items():
    add(name, with_item(payload, FOUR), words)
    if name.startswith(("deep", "a text", "a million", "bytes")):
        add(f"{name}, legacy", with_legacy_item(payload), words + "|damaged or hostile")
add("cycle of attributes", with_item(pw.call("a", "B") + b"q\x00}X\x01\x00\x00\x00xh\x00sb"), "contains itself")
add(
    "repeated bytes",
    with_item(
        pw.name("_codecs", "encode") + b"q\x000" + pw.value("a" * 10**6) + b"q\x010" + pw.value("latin1") + b"q\x020"
        b"](" + b"h\x00h\x01h\x02\x86R" * 100 + b"e"
    ),
    "spells out more than",
)


# Containers


def archive(change: Callable[[dict[str, bytes]], dict[str, bytes]]) -> Make:
    return lambda folder: write(folder / "file.pt", change(members()))


def patched(record: bytes, offset: int, new: bytes, nth: int = 0) -> Make:
    """A genuine zip in which some bytes of its nth record of a kind are others."""

    def make(folder: Path) -> Path:
        whole = bytearray((DATA / "e3_resolved.pt").read_bytes())
        start = -1
        for _ in range(nth + 1):
            start = whole.index(record, start + 1)
        whole[start + offset : start + offset + len(new)] = new
        (folder / "file.pt").write_bytes(whole)
        return folder / "file.pt"

    return make


def raw(change: Callable[[bytes], bytes], base: str = "e3_resolved") -> Make:
    return lambda folder: plain(change((DATA / f"{base}.pt").read_bytes()))(folder)


def twice(folder: Path) -> Path:
    with warnings.catch_warnings(), zipfile.ZipFile(folder / "file.pt", "w") as file:
        warnings.simplefilter("ignore")
        for member, data in [*members().items(), ("archive/data.pkl", pw.pickled(b"cos\nsystem\n"))]:
            file.writestr(member, data)
    return folder / "file.pt"


def bomb(folder: Path) -> Path:
    return write(folder / "file.pt", {**members(), "archive/data/0": bytes(100_000_000)}, zipfile.ZIP_DEFLATED)


def overlapping(folder: Path) -> Path:
    """The directory gives the second member the place of the first one's data."""
    path = pw.write_zip(folder / "file.pt", pw.pickled(b"N"), {"a": b"PK\x03\x04" + bytes(100)})
    whole = bytearray(path.read_bytes())
    inner = whole.index(b"PK\x03\x04", whole.index(b"data/a") + 1)
    entry = whole.rindex(b"archive/version") - 46
    whole[entry + 42 : entry + 46] = struct.pack("<I", inner)
    path.write_bytes(whole)
    return path


def directory_of(count: int) -> Make:
    """A zip whose directory lists one member many times, by different names."""

    def make(folder: Path) -> Path:
        path = folder / "file.pt"
        entry = struct.pack("<4s6H3I5H2I", b"PK\1\2", 20, 20, 0, 0, 0, 33, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0)
        entries = b"".join(entry + b"archive/%08d" % i for i in range(count))
        head = struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 0, 0, 33, 0, 0, 0, 16, 0) + b"archive/00000000"
        end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, count & 0xFFFF, count & 0xFFFF, len(entries), len(head), 0)
        path.write_bytes(head + entries + end)
        return path

    return make


CENTRAL, LOCAL, END64 = b"PK\1\2", b"PK\3\4", b"PK\6\6"
DAMAGED_ZIP = "truncated or damaged zip archive"
add("deflated bomb", bomb, "compressed member")
add("bzip2", lambda f: write(f / "file.pt", members(), zipfile.ZIP_BZIP2), "compressed member")
add("lzma", lambda f: write(f / "file.pt", members(), zipfile.ZIP_LZMA), "compressed member")
add("declared larger than stored", patched(CENTRAL, 24, struct.pack("<I", 2**31)), "compressed member")
add("encrypted", patched(CENTRAL, 8, b"\x01"), "encrypted member")
add("duplicate member", twice, "two members of one name")
add("two pickles", archive(lambda m: m | {"archive/x/data.pkl": m["archive/data.pkl"]}), "2 data.pkl")
add("no pickle", archive(lambda m: {k: v for k, v in m.items() if "pkl" not in k}), "0 data.pkl")
add("a member renamed in the directory", patched(CENTRAL, 46, b"archive/xata.pkl"), "0 data.pkl")
add("a member renamed where it lies", patched(LOCAL, 30, b"archive/xata.pkl"), "under two names")
add("a storage renamed where it lies", patched(b"archive/data/7FB", 13, b"8"), "under two names")
add("path traversal", archive(lambda m: m | {"archive/../../evil": b"x"}), "outside its folder")
add("an absolute member", archive(lambda m: m | {"/tmp/evil": b"x"}), "outside its folder")
add("a member by backslashes", archive(lambda m: m | {"archive/..\\..\\evil": b"x"}), "outside its folder")
add("a member beside the folder", archive(lambda m: m | {"evil.py": b"x"}), "outside its folder")
add("overlapping members", overlapping, "before its member|no whole member|under two names")
add(
    "a member beyond the end",
    patched(CENTRAL, 20, struct.pack("<II", 10**6, 10**6)),
    "no whole member|before its member",
)
add(
    "an offset beyond the end", patched(CENTRAL, 42, struct.pack("<I", 2**31), nth=3), "ends too early|no whole|damaged"
)
add("a directory beyond the end", patched(END64, 48, struct.pack("<Q", 2**40)), "before its member")
add("a directory of 4 GB", patched(END64, 40, struct.pack("<Q", 2**40)), DAMAGED_ZIP)
add("600 000 members", directory_of(600_000), "declares a piece|more than")
add("30 000 members in one place", directory_of(30_000), "members, too many for its size")
add(
    "polyglot: a pickle before the zip",
    raw(lambda z: b"cos\nsystem\n(Vtouch ran\ntR." + z),
    "is not a torch checkpoint",
)
add("polyglot: a zip before the zip", raw(lambda z: b"PK\x03\x04" + bytes(60) + z), "something else before")
add(
    "polyglot: a stream before the zip",
    raw(lambda z: b"".join(legacy_parts()[0]) + legacy_parts()[1] + z),
    "goes on after",
)
add("polyglot: a shell script", raw(lambda z: b"#!/bin/sh\ntouch ran\nexit\n" + z), "is not a torch checkpoint")
add("polyglot: behind the zip", raw(lambda z: z + b"cos\nsystem\n(Vtouch ran\ntR."), DAMAGED_ZIP)
add(
    "polyglot: in the zip's comment",
    raw(lambda z: z[:-2] + struct.pack("<H", 30) + b"cos\nsystem\n(Vtouch ran\ntR.".ljust(30)),
    DAMAGED_ZIP,
)
add(
    "polyglot: a zip in a stream",
    legacy(lambda p, s: b"".join(p) + s + (DATA / "e3_resolved.pt").read_bytes()),
    "goes on",
)
add(
    "a trailing pickle in the member",
    archive(lambda m: m | {"archive/data.pkl": m["archive/data.pkl"] + b"cos\nsystem\n)R."}),
    "ends before its member does",
)
add(
    "a trailing pickle in the stream",
    legacy(lambda p, s: b"".join(p) + s + b"cos\nsystem\n)R."),
    "goes on after its last",
)
add(
    "a pickle between the pickles",
    legacy(lambda p, s: b"".join(p[:3]) + b"cos\nsystem\n)R." + b"".join(p[3:]) + s),
    SYSTEM,
)
add("a pickle as the magic number", legacy(lambda p, s: p[0][:-1] + b"0cos\nsystem\n)R." + b"".join(p[1:]) + s), SYSTEM)
add("storages shorter than declared", legacy(lambda p, s: b"".join(p) + s[:-100]), "truncated")
add("storages in another number", legacy(lambda p, s: b"".join(p[:4]) + pickle.dumps(["0"], 2) + s), "other storages")
add(
    "a storage of negative size",
    legacy(lambda p, s: b"".join(p) + struct.pack("<q", -1) + s[8:]),
    "elements in its storage",
)
add("a storage of 2^62", legacy(lambda p, s: b"".join(p) + struct.pack("<q", 2**62) + s[8:]), "elements in its storage")
add("another byte order", archive(lambda m: m | {"archive/byteorder": b"big"}), "little-endian")
add(
    "another byte order, legacy",
    legacy(lambda p, s: b"".join(p[:2]) + p[2].replace(b"\x88", b"\x89") + b"".join(p[3:]) + s),
    "little-endian",
)
add("cut in the middle", raw(lambda z: z[: len(z) // 2]), DAMAGED_ZIP)
add("the first bytes of a zip", plain(b"PK\x03\x04"), DAMAGED_ZIP)
add("an empty zip", plain(b"PK\5\6" + bytes(18)), "0 data.pkl")
add("gzip", plain(b"\x1f\x8b\x08" + bytes(100)), "is a gzip file")
add("a bare pickle", plain(pickle.dumps({"model": 1}, 4)), "is not a torch checkpoint")
add("numpy's pickle", plain(b"\x93NUMPY\x01\x00v\x00{'descr': '|O'}"), "is not a torch checkpoint")
add("a pipe", lambda folder: os.mkfifo(folder / "file.pt") or folder / "file.pt", "is a folder or a device")
add("a link to a device", lambda folder: (folder / "file.pt").symlink_to("/dev/zero") or folder / "file.pt", "a device")
add(
    "a link to itself",
    lambda folder: (folder / "file.pt").symlink_to("file.pt") or folder / "file.pt",
    "does not exist",
)


# Configurations


def model(name: str, value: Any) -> Make:
    return edited(lambda root: root["cfg"]["model"].update({name: value}))


def microsoft(name: str, value: Any) -> Make:
    return edited(lambda root: root["cfg"].update({name: value}), "wavlm")


def many_rows_and_keys(root: Tree) -> None:
    root["cfg"]["model"].update(depth=127)
    root["model"].update({f"blocks.{i}.unknown": torch.ones(1) for i in range(9000)})


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


CALL = "__import__('os').system('touch ran')"
for name, stack in {
    "calls": CALL,
    "calls in a block": f"[({CALL},10,5)]",
    "repeats 10^9 times": "[(8,10,5)] * 1000000000",
    "repeats by a product": "[(8,10,5)] * 9999 * 9999 * 9999",
    "repeats from the left": "999999 * [(8,10,5)]",
    "is a comprehension": "[(8,10,5) for _ in range(10**9)]",
    "is a power": "[(8,10,5**9**9)]",
    "is a lambda": "(lambda: [(8,10,5)])()",
    "is negative": "[(-8,10,5)]",
    "is empty": "[]",
    "is 100 000 characters": "[(8,10,5)]" + " + [(8,10,5)]" * 9000,
    "is 3000 brackets": "[" * 3000,
    "is a number": 7,
    "is a list of text": [CALL],
    "is a list of truths": [(True, True, True)],
    "is NaN": math.nan,
}.items():
    add(f"conv_feature_layers {name}", model("conv_feature_layers", stack), "conv_feature_layers is")
for name, value, words in (
    ("encoder_layers", 10**9, "num_layers"),
    ("encoder_layers", 0, "num_layers"),
    ("encoder_layers", -1, "num_layers"),
    ("encoder_layers", True, "num_layers"),
    ("encoder_layers", "1", "num_layers"),
    ("encoder_layers", 1.0, "num_layers"),
    ("encoder_layers", math.nan, "num_layers"),
    ("encoder_layers", 2**1000, "num_layers"),
    ("encoder_layers", 128, "asks for 128 layers"),
    ("encoder_layers", [1], "num_layers"),
    ("encoder_embed_dim", 2**40, "width"),
    ("encoder_embed_dim", 65536, "shapes that differ"),
    ("encoder_ffn_embed_dim", 10**9, "ffn_width"),
    ("encoder_attention_heads", 0, "num_heads"),
    ("encoder_attention_heads", 3, "num_heads"),
    ("encoder_attention_heads", True, "num_heads"),
    ("conv_pos", 10**9, "pos_conv_kernel"),
    ("conv_pos", 0, "pos_conv_kernel"),
    ("conv_pos_groups", 0, "pos_conv_groups"),
    ("pos_conv_depth", 10**9, "pos_conv|conv_pos"),
    ("pos_conv_depth", True, "pos_conv_depth is True"),
    ("dropout", math.nan, "dropout"),
    ("dropout", math.inf, "dropout"),
    ("dropout", True, "dropout"),
    ("dropout", 2**1023, "dropout"),
    ("attention_dropout", "0.1", "attention_dropout"),
    ("layer_norm_first", "False", "norm_first"),
    ("layer_norm_first", 1, "norm_first"),
    ("conv_bias", "no", "conv_bias"),
    ("conv_pos_batch_norm", "False", "conv_pos_batch_norm"),
    ("quantize_input", "False", "quantize_input"),
    ("crop_seq_to_multiple", True, "crop_seq_to_multiple"),
    ("activation_fn", CALL, "activation_fn"),
    ("activation_fn", {"a": 1}, "activation_fn"),
    ("extractor_mode", ["default"], "extractor_mode"),
    ("extractor_mode", "x" * 1_000_000, "extractor_mode"),
    ("layer_type", CALL, "layer_type"),
    ("layer_type", "conformer", "layer_type"),
    ("dropout", "${" + "." * 1_000_000, "dropout"),
    ("dropout", deep(100), "dropout"),
    ("unheard_of", deep(100), "nested deeper"),
):  # fmt: skip
    shown = repr(value) if len(repr(value)) < 30 else f"{type(value).__name__} of {len(repr(value))}"
    add(f"{name} = {shown}", model(name, value), words)
for name, value, words in (
    ("relative_position_embedding", "False", "relative_position_embedding"),
    ("gru_rel_pos", "False", "gru_rel_pos"),
    ("num_buckets", 3, "relative_buckets"),
    ("num_buckets", 10**9, "relative_buckets"),
    ("max_distance", True, "relative_max_distance"),
    ("normalize", "False", "normalize"),
):
    add(f"wavlm: {name} = {value!r}", microsoft(name, value), words)
add("normalize is text", edited(lambda root: root["cfg"]["task"].update(normalize="False")), "normalize")
add("the configuration is a list", edited(lambda root: root.update(cfg=[1])), "it has no configuration")
add(
    "data2vec2: a number for a flag",
    edited(lambda r: r["cfg"]["model"].update(norm_affine=1), "data2vec2"),
    "norm_affine",
)
add("data2vec2: 10^9 layers", edited(lambda r: r["cfg"]["model"].update(depth=10**9), "data2vec2"), "depth")
add(
    "data2vec2: 128 layers and 9000 unknown tensors",
    edited(many_rows_and_keys, "data2vec2"),
    "no place for",
)
add("there is no configuration", edited(lambda root: root.pop("cfg")), "it has no configuration")
add(
    "an unknown model",
    edited(lambda root: [root["cfg"]["model"].update(_name="x"), root["model"].pop("label_embs_concat")]),
    "in fairseq's terms",
)
add(
    "symbols are numbers",
    edited(lambda root: root["task_state"].update(target_dictionary={"symbols": [1, 2]})),
    "symbols",
)
add(
    "references in a circle",
    model("encoder_layers", "${model.encoder_layers}"),
    "asks for 12 layers|num_layers|nothing fills",
)


def tera(change: Callable[[Tree], object]) -> Make:
    return edited(
        lambda root: change(root["Config" if "transformer" in root["Config"] else "Upstream_Config"]), "s3prl/tera.ckpt"
    )


add("tera: 10^9 layers", tera(lambda c: c["transformer"].update(num_hidden_layers=10**9)), "num_layers")
add("tera: zero heads", tera(lambda c: c["transformer"].update(num_attention_heads=0)), "num_heads")
add("tera: eps is NaN", tera(lambda c: c["transformer"].update(layer_norm_eps="nan")), "norm_eps")
add("tera: eps is a call", tera(lambda c: c["transformer"].update(layer_norm_eps=CALL)), "layer_norm_eps")
add("tera: a window of NaN", tera(lambda c: c["audio"].update(win_ms=math.nan)), "win_ms")
add("tera: a window of 2^1000", tera(lambda c: c["audio"].update(win_ms=2**1000)), "win_ms")
add("tera: log is text", tera(lambda c: c["audio"]["input"].update(log="False")), "log")
add("tera: sections are text", tera(lambda c: c["audio"].update(input=CALL)), "instead of a section")
add("tera: share_layer is a number", tera(lambda c: c["transformer"].update(share_layer=1)), "share_layers")
add(
    "distiller: a call as its stack",
    edited(lambda r: r["Config"]["distiller"].update(extractor_conv_feature_layers=CALL), "distilhubert"),
    "conv_feature_layers",
)
add(
    "wav2vec-U: a segmentation of numbers",
    edited(lambda r: r["cfg"]["model"]["segmentation"].update(type={"args": 5}), "wav2vec_u/plain.pt"),
    "segmentation",
)
add(
    "wav2vec-U: a norm that is text",
    edited(lambda r: r["cfg"]["model"].update(discriminator_weight_norm="False"), "wav2vec_u/plain.pt"),
    "discriminator_weight_norm",
)
add(
    "wav2vec-U: a depth of 10^9",
    edited(lambda r: r["cfg"]["model"].update(discriminator_depth=10**9), "wav2vec_u/plain.pt"),
    "discriminator_depth",
)


# State dicts


def state(change: Callable[[Tree], object], base: str = "e3_resolved") -> Make:
    return edited(lambda root: change(root["model"]), base)


NORM = "encoder.layer_norm.weight"
ones = torch.ones(16)
add("a missing tensor", state(lambda s: s.pop(NORM)), "nothing fills: encoder.layer_norm.weight")
add("no tensors", state(lambda s: s.clear()), "asks for 1 layers|in fairseq's terms")
add("a second layer", state(lambda s: s.update({"encoder.layers.1.fc1.bias": ones})), "no place for")
add("a layer 10^6", state(lambda s: s.update({"encoder.layers.999999.fc1.bias": ones})), "no place for")
add("a layer -1", state(lambda s: s.update({"encoder.layers.-1.fc1.bias": ones})), "no place for")
add("a layer 00", state(lambda s: s.update({"encoder.layers.00.fc1.bias": ones})), "no place for")
add("an unknown tensor", state(lambda s: s.update({"__reduce__": ones})), "no place for: __reduce__")
add("a name that paints the terminal", state(lambda s: s.update({"\x1b]0;x\x07\x1b[2J\n\r": ones})), r"\\x1b\]0;x\\x07")
add("a name of two directions", state(lambda s: s.update({"\u202egnp.exe": ones})), r"\\u202egnp.exe")
add("a number as a name", state(lambda s: s.update({7: ones})), "something else than a tensor under 7")
add("a tuple as a name", state(lambda s: s.update({(1, 2): ones})), r"something else than a tensor under \(1, 2\)")
add("None as a name", state(lambda s: s.update({None: ones})), "something else than a tensor under None")
add("text for a tensor", state(lambda s: s.update({NORM: CALL})), "something else than a tensor")
add("a dict for a tensor", state(lambda s: s.update({NORM: {"a": 1}})), "something else than a tensor")
add("a storage of stride 0 for a weight", state(lambda s: s.update({NORM: torch.ones(1).expand(17)})), "instead of|fit")
add("a wrong shape", state(lambda s: s.update({NORM: torch.ones(17)})), r"\[17\] instead of \[16\]")
add("a transposed shape", state(lambda s: s.update({NORM: torch.ones(16, 1)})), r"\[16, 1\] instead of \[16\]")
add("a scalar", state(lambda s: s.update({NORM: torch.tensor(1.0)})), r"\[\] instead of \[16\]")
add("an empty weight", state(lambda s: s.update({NORM: torch.ones(0)})), r"\[0\] instead of \[16\]")
add("integers", state(lambda s: s.update({NORM: torch.ones(16, dtype=torch.int64)})), "holds torch.int64")
add("truths", state(lambda s: s.update({NORM: torch.ones(16, dtype=torch.bool)})), "holds torch.bool")
add(
    "complex numbers", state(lambda s: s.update({NORM: torch.ones(16, dtype=torch.complex64)})), "holds torch.complex64"
)
add(
    "60 000 names of a tensor",
    state(lambda s: s.update({f"x.{i}": ones for i in range(60_000)})),
    "repeats its objects",
)
add(
    "20 000 unknown tensors",
    state(lambda s: s.update({f"x.{i}": torch.ones(1) for i in range(20_000)})),
    "members, too many for its size",
)


def names(prefix: str) -> bytes:
    """A dict with 60 000 names of one storage, which takes few opcodes."""
    return (
        pw.storage("s", 4) + b"q\x000}(" + b"".join(pw.value(f"{prefix}{i}") + b"h\x00" for i in range(60_000)) + b"u"
    )


def unknown_keys(folder: Path) -> Path:
    cfg = pw.value("cfg") + pw.value({"extractor_mode": "default"})
    return pw.write_zip(folder / "file.pt", pw.pickled(b"}(" + cfg + pw.value("model") + names("") + b"u"), FOUR)


def fairseq_unknown_keys(folder: Path) -> Path:
    genuine = members()["archive/data.pkl"]
    return with_pickle(folder, pw.pickled(genuine[2:-1] + pw.value("model") + names("k") + b"s"), FOUR)


add("60 000 names of one storage", unknown_keys, "60000 tensors, where no model has more")
add(
    "60 000 names of one storage, fairseq",
    fairseq_unknown_keys,
    "60000 tensors, where no model has more|in fairseq's terms",
)
add(
    "60 000 unknown names at the top",
    edited(lambda r: r.update({f"x{i}": i for i in range(60_000)}) or r.pop("model")),
    "its layout is none",
)
add("a name of 10 MB", state(lambda s: s.update({"x" * 10_000_000: ones})), "too many for its size|holds a text")
add("a name of 1 MB", state(lambda s: s.update({"x" * 1_000_000: ones})), "a tensor whose name has|holds a text")
add(
    "a name of 1 MB of dots",
    state(lambda s: s.update({"final_proj" + "." * 1_000_000: ones})),
    "a tensor whose name has|holds a text",
)
add("a name without a part", state(lambda s: s.update({"final_proj..x": ones})), "no place for")
for name, value in (("NaN", math.nan), ("infinity", math.inf), ("minus infinity", -math.inf)):
    weights = ones.clone()
    weights[3] = value
    add(
        f"a weight of {name}",
        state(lambda s, w=weights: s.update({NORM: w})),
        f"{NORM} holds values that are not finite",
        True,
    )
add(
    "half precision, infinite",
    state(lambda s: s.update({NORM: torch.full((16,), math.inf).half()})),
    "not finite",
    True,
)


def repeated(folder: Path) -> Path:
    """Three thousand heads that are one storage: gigabytes from a megabyte."""
    tensor = pw.tensor(pw.storage("s", 2**18), 0, (2**18,), (1,)) + b"q\x000"
    genuine = members()["archive/data.pkl"]
    start = genuine.index(pw.value(NORM))
    names = b"".join(pw.value(f"final_proj.x{i}") + b"j\xff\xff\xff\x7f" for i in range(3000))
    content = (
        genuine[2:2] + tensor.replace(b"q\x00", b"r\xff\xff\xff\x7f") + genuine[2:start] + names + genuine[start:-1]
    )
    return with_pickle(folder, pw.pickled(content), {"s": bytes(2**20)})


add("3000 heads that share one storage", repeated, "they repeat each other")


# Safetensors and folders of Hugging Face


def safetensors(header: bytes | dict[str, Any], data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(shape: list[Any], start: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


FOUR_BYTES = bytes(4)
ONE = json.dumps(entry([1], 0, 4)).encode()
HEADERS: dict[str, tuple[bytes, str]] = {
    "duplicate names": (safetensors(b'{"a":%s,"a":%s}' % (ONE, ONE), FOUR_BYTES), "holds 'a' twice"),
    "duplicate metadata": (safetensors(b'{"__metadata__":{},"__metadata__":{"x":"y"}}'), "'__metadata__' twice"),
    "duplicate fields": (safetensors(b'{"a":{"dtype":"F32","dtype":"F64"}}', FOUR_BYTES), "'dtype' twice"),
    "zero size, huge axes": (safetensors({"a": entry([0, 2**40, 2**40], 0, 0)}), "no possible shape"),
    "a huge shape": (safetensors({"a": entry([2**62], 0, 4)}, FOUR_BYTES), "no possible shape"),
    "a negative axis": (safetensors({"a": entry([-1], 0, 4)}, FOUR_BYTES), "no possible shape"),
    "a hundred axes": (safetensors({"a": entry([1] * 100, 0, 4)}, FOUR_BYTES), "no possible shape"),
    "a float axis": (safetensors({"a": entry([1.0], 0, 4)}, FOUR_BYTES), "no possible shape"),
    "no shape": (safetensors({"a": {"dtype": "F32", "data_offsets": [0, 0]}}), "no possible shape"),
    "overlapping": (safetensors({"a": entry([1], 0, 4), "b": entry([1], 0, 4)}, FOUR_BYTES), "damaged safetensors"),
    "a hole": (safetensors({"a": entry([1], 4, 8)}, bytes(8)), "damaged safetensors"),
    "out of bounds": (safetensors({"a": entry([2], 0, 8)}, FOUR_BYTES), "damaged safetensors"),
    "offsets backwards": (safetensors({"a": entry([1], 4, 0)}, FOUR_BYTES), "damaged safetensors"),
    "bytes behind the last": (safetensors({"a": entry([1], 0, 4)}, bytes(400)), "damaged safetensors"),
    "an unknown dtype": (safetensors({"a": entry([1], 0, 4, "os.system")}, FOUR_BYTES), "damaged safetensors"),
    "a dtype of 1 MB": (safetensors({"a": entry([1], 0, 4, "x" * 1_000_000)}, FOUR_BYTES), "damaged safetensors"),
    "300 000 empty tensors": (safetensors({f"x.{i}": entry([0], 0, 0) for i in range(300_000)}), "bytes, more than"),
    "a name of 10 MB": (safetensors({"x" * 10_000_000: entry([0], 0, 0)}), "bytes, more than"),
    "a name of 1 MB": (safetensors({"x" * 1_000_000: entry([0], 0, 0)}), "metadata|name has|no place for"),
    "20 000 empty tensors": (safetensors({f"{i}": entry([0], 0, 0) for i in range(20_000)}), "20000 tensors|metadata"),
    "nested 100 000 deep": (safetensors(b'{"a":' + b"[" * 100_000), "damaged safetensors"),
    "a header of 2^63": (struct.pack("<Q", 2**63) + b"{}", "is not a torch|is a safetensors|bytes, more than"),
    "a header beyond the end": (struct.pack("<Q", 1000) + b"{}", "damaged safetensors"),
    "no JSON": (safetensors(b"{'a': 1}"), "damaged safetensors"),
    "UTF-16": (safetensors('{"a": 1}'.encode("utf-16-le")), "damaged safetensors"),
    "a list": (safetensors(b"[]"), "header is no object|is a safetensors|is not a torch"),
}  # fmt: skip


def hf(change: Callable[[Path], object], base: str = "ctc") -> Make:
    """A genuine folder that was changed."""

    def make(folder: Path) -> Path:
        copy = folder / "model"
        shutil.copytree(DATA / "hf" / base, copy)
        change(copy)
        return copy

    return make


def setting(file: str = "config.json", **values: Any) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        old = json.loads((folder / file).read_text()) if (folder / file).exists() else {}
        (folder / file).write_text(json.dumps(old | values))

    return change


def text(file: str, content: str | bytes) -> Callable[[Path], object]:
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / file).write_bytes(data)


INDEX = "model.safetensors.index.json"


def shard(name: Any, **more: Any) -> Callable[[Path], object]:
    return lambda folder: text(INDEX, json.dumps({"weight_map": {"encoder.layer_norm.bias": name, **more}}))(folder)


for name, (content, words) in HEADERS.items():
    add(f"safetensors: {name}", plain(content, "file.safetensors"), words)
    add(
        f"folder, safetensors: {name}",
        hf(text("model.safetensors", content)),
        words.replace("is a safetensors", "no place") + "|damaged safetensors|no place for|name has",
    )
OUTSIDE = "no weight_map from tensors to files of its folder"
for name, value, words in (
    ("a path above", "../../evil.safetensors", OUTSIDE),
    ("an absolute path", "/etc/passwd", OUTSIDE),
    ("the folder itself", ".", OUTSIDE),
    ("the folder above", "..", "not in the folder"),
    ("nothing", "", OUTSIDE),
    ("a number", 7, OUTSIDE),
    ("a name of 1 MB", "x" * 1_000_000, OUTSIDE),
    ("a name with a zero byte", "model\0.safetensors", "not in the folder"),
    ("an absent file", "absent.safetensors", "not in the folder"),
    ("its configuration", "config.json", "is not a torch checkpoint"),
):
    add(f"index names {name}", hf(shard(value), "sharded"), words)
add(
    "index names 1000 files",
    hf(shard("a", **{f"x{i}": f"{i}.safetensors" for i in range(1000)}), "sharded"),
    "1001 files",
)
add("index is a list", hf(text(INDEX, "[]"), "sharded"), "a list instead of an object")
add(
    "one tensor in two shards",
    hf(
        lambda f: shutil.copy(f / "model-00001-of-00004.safetensors", f / "model-00002-of-00004.safetensors"), "sharded"
    ),
    "in two files",
)
add("config names code", hf(setting(auto_map={"AutoModel": "modeling_evil.Evil"})), "has code of its own")
add(
    "processor names code",
    hf(setting("preprocessor_config.json", auto_map={"AutoProcessor": "evil.E"})),
    "has code of its own",
)
add("config names a pipeline", hf(setting(custom_pipelines={"x": {"impl": "evil.E"}})), "has code of its own")
for name, value, words in (
    ("model_type", CALL, "model_type is"),
    ("model_type", ["hubert"], "model_type is"),
    ("model_type", "x" * 1_000_000, "model_type is"),
    ("num_hidden_layers", 10**9, "num_layers"),
    ("num_hidden_layers", 10**400, "num_layers"),
    ("num_attention_heads", 0, "num_heads"),
    ("hidden_size", True, "width"),
    ("hidden_act", CALL, "hidden_act is"),
    ("do_stable_layer_norm", "True", "norm_first"),
    ("conv_pos_batch_norm", "False", "conv_pos_batch_norm"),
    ("conv_dim", [8] * 100, "one length"),
    ("conv_dim", 8, "one length"),
    ("layerdrop", 10**400, "layerdrop"),
    ("feat_proj_layer_norm", "False", "feat_proj_layer_norm"),
    ("add_adapter", 1, "add_adapter"),
):
    add(f"config.json: {name} = {str(value)[:20]}", hf(setting(**{name: value})), words)
add("config.json: NaN", hf(setting(hidden_dropout=math.nan)), "dropout")
add("config.json: a processor of text", hf(setting("preprocessor_config.json", do_normalize="False")), "normalize")
add("config.json: 100 000 deep", hf(text("config.json", "[" * 100_000)), "cannot be read as JSON|instead of")
add(
    "config.json: 900 deep",
    hf(text("config.json", '{"model_type": "hubert", "a": %s}' % ("[" * 900 + "]" * 900))),
    "no tensors|nested|num_layers|no place|asks|fit|lengths|recursion|JSON",
)
add("config.json: 5 MB", hf(text("config.json", "[" + "0," * 2_500_000 + "0]")), "larger than")
add("config.json: a million items", hf(text("config.json", "[" + "0," * 1_000_000 + "0]")), "more than 150000 items")
add(
    "config.json: a number of 10 000 digits",
    hf(text("config.json", '{"hidden_size": %s}' % ("9" * 10_000))),
    "cannot be read as JSON|width",
)
add("config.json: no UTF-8", hf(text("config.json", b'{"a": "\xff"}')), "cannot be read as JSON")
add(
    "config.json: a pipe",
    hf(lambda f: (f / "config.json").unlink() or os.mkfifo(f / "config.json")),
    "without config.json",
)
add("vocab.json: a list", hf(text("vocab.json", "[1]")), "a list instead of an object")
add(
    "weights are a pipe",
    hf(lambda f: (f / "model.safetensors").unlink() or os.mkfifo(f / "model.safetensors")),
    "holds no weights",
)
add(
    "weights call",
    hf(lambda f: shutil.copy(with_item(call("os", "system", ("touch ran",), 2))(f), f / "pytorch_model.bin"), "bin"),
    SYSTEM,
)
add("weights hold an object", hf(lambda f: torch.save({"a": 1}, f / "pytorch_model.bin"), "bin"), "is no state dict")
add(
    "weights of NaN",
    hf(
        lambda f: torch.save(
            {k: v.fill_(math.nan) for k, v in read(f / "pytorch_model.bin").items()}, f / "pytorch_model.bin"
        ),
        "bin",
    ),
    "not finite",
    True,
)
add("an empty folder", lambda folder: (folder / "model").mkdir() or folder / "model", "folder without config.json")


# Native files


def native(change: Callable[[Tree], object]) -> Make:
    """A native file whose header was changed."""

    def make(folder: Path) -> Path:
        path = folder / "file.safetensors"
        with open_conversion(DATA / "e3_resolved.pt") as conversion:
            found = conversion.checkpoint()
            _native.write(path, found.tensors, found.config.to_dict(), found.provenance, conversion.digest)
        whole = path.read_bytes()
        end = 8 + int.from_bytes(whole[:8], "little")
        header = json.loads(whole[8:end])
        change(header)
        path.write_bytes(safetensors(header, whole[end:]))
        return path

    return make


def config(**values: Any) -> Make:
    def change(header: Tree) -> None:
        metadata = header["__metadata__"]
        metadata["zoo.config"] = json.dumps({**json.loads(metadata["zoo.config"]), **values})

    return native(change)


LAYER_NORM = "encoder.layer_norm.weight"
for name, kind, words in (
    ("10^9 layers", config(num_layers=10**9), "num_layers"),
    ("128 layers", config(num_layers=128), "asks for 128 layers"),
    ("zero heads", config(num_heads=0), "num_heads"),
    ("NaN", config(dropout=math.nan), "dropout"),
    ("a truth for a number", config(num_layers=True), "num_layers"),
    ("text for a flag", config(norm_first="False"), "norm_first"),
    ("a number of 400 digits", config(dropout=10**400), "dropout"),
    ("an unknown field of 1 MB", config(**{"x" * 1_000_000: 1}), "does not know"),
    ("a family that is a path", config(family="../evil"), "is of family"),
    ("a family of 1 MB", config(family="x" * 1_000_000), "is of family"),
    ("no configuration", native(lambda h: h["__metadata__"].pop("zoo.config")), "no JSON object"),
    ("a deep configuration", native(lambda h: h["__metadata__"].update({"zoo.config": "[" * 10**5})), "no JSON object"),
    ("a format of 1 MB", native(lambda h: h["__metadata__"].update({"zoo.format": "x" * 1_000_000})), "with format"),
    ("a tensor too many", native(lambda h: h.update({"x": entry([0], 0, 0)})), "no place for|damaged"),
    ("a tensor of another shape", native(lambda h: h[LAYER_NORM].update(shape=[2, 8])), "shapes that differ"),
    ("a tensor of integers", native(lambda h: h[LAYER_NORM].update(dtype="I32")), "instead of floating point"),
):  # fmt: skip
    add(f"native: {name}", kind, "cannot be converted|safetensors file with|damaged", loaded=words)
