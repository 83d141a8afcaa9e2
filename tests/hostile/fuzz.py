"""Random hostile files: genuine ones changed in their bytes, opcodes, configurations and tensors, by hypothesis.

`python -m tests.hostile.fuzz MINUTES` looks for small files that are refused for a reason that no file of the corpus
has yet, and adds them to it.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickletools
import re
import shutil
import struct
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from tests import pickle_writer as pw
from tests.trees import Tree, read
from zoo.converters import open_conversion
from zoo.errors import ZooError

DATA = Path(__file__).resolve().parents[1] / "data"
CORPUS = Path(__file__).resolve().parent / "corpus"
ZIPS = ("e3_resolved.pt", "e1_omegaconf20.pt", "vanished_class.pt", "wavlm.pt", "ctc_hubert.pt", "s3prl/tera.ckpt")
STREAM = "e0_namespace_legacy.pt"
FOLDERS = ("ctc", "sharded", "bin", "mms_ctc")
SETTINGS = settings(
    max_examples=100, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
)

Make = Callable[[Path], Path]


def saved(data: bytes) -> Make:
    def make(folder: Path) -> Path:
        (folder / "file.pt").write_bytes(data)
        return folder / "file.pt"

    return make


# Bytes


@cache
def small(container: str) -> bytes:
    """A file with a bit of everything, as small as it gets."""
    stream = io.BytesIO()
    base = torch.arange(6.0)
    item = {"a": base[1:3], "b": base.reshape(2, 3).t(), "c": torch.tensor([True]), "d": [1, (2.5, "x"), {3}, b"y"]}
    torch.save(item, stream, _use_new_zipfile_serialization=container == "zip", pickle_protocol=2)
    return stream.getvalue()


@cache
def structure(data: bytes) -> list[int]:
    """Places that matter: those of the records and of the pickle, rather than of the weights."""
    if not data.startswith(b"PK"):
        return list(range(min(len(data), 20_000)))
    starts = [match.start() for match in re.finditer(b"PK[\1\3\5\6]", data)]
    pickle = data.index(b"\x80\x02")
    return sorted({p for s in starts for p in range(s, min(s + 64, len(data)))} | {*range(pickle, pickle + 5000)})


@st.composite
def changed_bytes(draw: st.DrawFn, base: st.SearchStrategy[bytes]) -> bytes:
    """A file with bytes replaced, inserted, left out, doubled, or cut off."""
    data = bytearray(draw(base))
    places = structure(bytes(data))
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.sampled_from(places)) % max(len(data), 1)
        match draw(st.sampled_from(("replace", "number", "insert", "delete", "double", "cut"))):
            case "replace":
                data[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
            case "number":
                data[at : at + 4] = struct.pack("<I", draw(st.sampled_from((0, 1, 2**31 - 1, 2**31, 2**32 - 1))))
            case "insert":
                data[at:at] = draw(st.binary(max_size=8))
            case "delete":
                del data[at : at + draw(st.integers(1, 16))]
            case "double":
                data[at:at] = data[at : at + draw(st.integers(1, 64))]
            case _:
                if draw(st.integers(0, 9)) == 0:
                    del data[at:]
    return bytes(data)


# Opcodes

PIECES = [
    bytes([code]) for code in b"()0123NIJKMUXcbdeaslth.tuRQ}]\x85\x86\x87\x88\x89\x81\x8f\x90\x91\x92\x93\x94\x95"
]
PIECES += [
    pw.value(item) for item in ([], {}, (), "0", 1, -1, 2.5, 2**70, "storage", "cpu", [1], {"a": 1}, (2, 3), b"x")
]
PIECES += [
    pw.name("torch", "FloatStorage"),
    pw.name("collections", "OrderedDict"),
    pw.name("torch._utils", "_rebuild_tensor_v2"),
    pw.name("torch._utils", "_rebuild_parameter"),
    pw.name("torch._tensor", "_rebuild_from_type_v2"),
    pw.name("numpy.core.multiarray", "scalar"),
    pw.name("_codecs", "encode"),
    pw.name("copy_reg", "_reconstructor"),
    pw.name("argparse", "Namespace"),
    pw.name("omegaconf.dictconfig", "DictConfig"),
    pw.name("omegaconf.nodes", "AnyNode"),
    pw.name("pathlib", "PosixPath"),
    pw.name("gone", "Kind"),
    pw.name("os", "system"),
    pw.storage("0", 4),
    pw.tensor(pw.storage("0", 4), 0, (4,), (1,)),
    pw.tensor(pw.storage("0", 4), 0, (2,), (0,)),
    b"h\x00",
    b"q\x00",
    b"j\x01\x00\x00\x00",
]
OPCODES = st.lists(st.sampled_from(PIECES), max_size=30).map(b"".join)


@cache
def opcodes(name: str) -> tuple[list[bytes], dict[str, bytes], str]:
    """The opcodes of a zip's pickle with their arguments, its members, and the pickle's name."""
    with zipfile.ZipFile(DATA / name) as archive:
        members = {member: archive.read(member) for member in archive.namelist()}
    (place,) = (member for member in members if member.endswith("data.pkl"))
    starts = [position for _, _, position in pickletools.genops(members[place])] + [len(members[place])]
    return [members[place][a:b] for a, b in pairwise(starts)], members, place


@st.composite
def changed_opcodes(draw: st.DrawFn) -> Make:
    """A genuine zip whose pickle has opcodes replaced, inserted, left out, repeated or exchanged."""
    codes, members, place = opcodes(draw(st.sampled_from(ZIPS)))
    codes = list(codes)
    for _ in range(draw(st.integers(1, 5))):
        at, other = draw(st.integers(1, len(codes) - 1)), draw(st.integers(1, len(codes) - 1))
        match draw(st.sampled_from(("replace", "insert", "delete", "repeat", "exchange"))):
            case "replace":
                codes[at] = draw(st.sampled_from(PIECES))
            case "insert":
                codes[at:at] = [draw(OPCODES)]
            case "delete":
                del codes[at : at + draw(st.integers(1, 4))]
            case "repeat":
                codes[other:other] = codes[at : at + draw(st.integers(1, 200))]
            case _:
                codes[at], codes[other] = codes[other], codes[at]

    def make(folder: Path) -> Path:
        with zipfile.ZipFile(folder / "file.pt", "w") as archive:
            for member, data in {**members, place: b"".join(codes)}.items():
                archive.writestr(member, data)
        return folder / "file.pt"

    return make


# Configurations and tensors

NUMBERS = (0, 1, 2, 3, 16, 10**6, 10**9, 2**64, 2**1000, -1, 0.5, 1e308, float("nan"), float("inf"), True, False)
WORDS = ("", "???", "${model.dropout}", "${task.normalize}", "False", "1", "[(8,10,5)] * 9", "layer_norm", "trf_adp")
VALUES = st.recursive(
    st.none() | st.sampled_from(NUMBERS) | st.sampled_from(WORDS) | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
TENSORS = st.sampled_from(
    [torch.ones(shape, dtype=dtype) for shape in ((), (0,), (1,), (16,), (1, 16), (8, 8, 3)) for dtype in
     (torch.float32, torch.float16, torch.float64, torch.int64, torch.bool, torch.complex64)]
)  # fmt: skip


# Sections of a configuration that nothing reads.
UNREAD = {
    "common",
    "common_eval",
    "distributed_training",
    "dataset",
    "optimization",
    "checkpoint",
    "bmuf",
    "generation",
}
UNREAD |= {"eval_lm", "interactive", "ema", "criterion", "optimizer", "lr_scheduler", "last_optimizer_state", "scoring"}


def sections(tree: Any) -> list[Tree]:
    """The dicts of a tree that matter, each as often as it has eight items."""
    if not isinstance(tree, dict):
        return []
    inner = [found for key, value in tree.items() if key not in UNREAD for found in sections(value)]
    return [tree] * max(1, len(tree) // 8) + inner


@st.composite
def changed_tree(draw: st.DrawFn) -> Make:
    """A genuine checkpoint, saved again with other values, names or tensors."""
    name = draw(st.sampled_from((*ZIPS, STREAM, "mms.pt", "distilhubert.pt", "wav2vec_u/plain.pt", "data2vec2.pt")))
    root = read(DATA / name)
    for _ in range(draw(st.integers(1, 3))):
        section = draw(st.sampled_from(sections(root)))
        key = draw(st.sampled_from(list(section)) if section else st.text(max_size=5))
        match draw(st.integers(0, 9)):
            case 0:
                section.pop(key, None)
            case 1:
                section[draw(st.text(max_size=9) | st.integers() | st.none())] = section.get(key)
            case 2:
                section[key] = draw(TENSORS)
            case _:
                section[key] = draw(TENSORS if isinstance(section.get(key), torch.Tensor) else VALUES)

    def make(folder: Path) -> Path:
        torch.save(root, folder / "file.pt")
        return folder / "file.pt"

    return make


@st.composite
def changed_folder(draw: st.DrawFn) -> Make:
    """A genuine folder with other settings, or other bytes in the header of its weights."""
    source = DATA / "hf" / draw(st.sampled_from(FOLDERS))
    files = sorted(path for path in source.iterdir() if path.suffix in (".json", ".safetensors"))
    file = draw(st.sampled_from(files))
    if file.suffix == ".json" and draw(st.booleans()):
        root = json.loads(file.read_text())
        section = draw(st.sampled_from(sections(root)))
        section[draw(st.sampled_from(list(section)) if section else st.text(max_size=5))] = draw(VALUES)
        content = json.dumps(root).encode()
    else:
        content = draw(changed_bytes(st.just(file.read_bytes())))

    def make(folder: Path) -> Path:
        shutil.copytree(source, folder / "model")
        (folder / "model" / file.name).write_bytes(content)
        return folder / "model"

    return make


BASES = st.sampled_from([small("zip"), small("legacy"), *((DATA / name).read_bytes() for name in (*ZIPS, STREAM))])
KINDS: dict[str, st.SearchStrategy[Make]] = {
    "bytes": changed_bytes(BASES).map(saved),
    "opcodes": changed_opcodes(),
    "small pickles": OPCODES.map(lambda body: saved(small_zip(body))),
    "trees": changed_tree(),
    "folders": changed_folder(),
}


def reason(path: Path) -> str:
    """Why a file is refused, without its particulars."""
    try:
        open_conversion(path).source.close()
    except ZooError as refusal:
        text = str(refusal).replace(str(path), "")
        return re.sub(r"'[^']*'|\"[^\"]*\"|\d+|; .*|\(.*\)", "", text)
    return "read"


def grow(minutes: float) -> None:
    """Add files to the corpus."""
    known = {reason(path) for path in CORPUS.iterdir()}
    end = time.monotonic() + 60 * minutes
    sources = changed_bytes(st.sampled_from([small("zip"), small("legacy")])) | OPCODES.map(small_zip)
    with tempfile.TemporaryDirectory() as folder:
        number = 0
        while time.monotonic() < end:
            number += 1

            @seed(number)
            @settings(SETTINGS, derandomize=False, max_examples=500)
            @given(sources)
            def look(data: bytes) -> None:
                if len(data) > 4000:
                    return
                why = reason(saved(data)(Path(folder)))
                if why not in known:
                    known.add(why)
                    (CORPUS / f"{hashlib.sha256(data).hexdigest()[:12]}.pt").write_bytes(data)
                    print(len(known), len(data), why)

            look()


def small_zip(body: bytes) -> bytes:
    stream = io.BytesIO()
    pw.write_zip(stream, pw.pickled(body), {"0": bytes(16)})  # type: ignore[arg-type]
    return stream.getvalue()


if __name__ == "__main__":
    grow(float(sys.argv[1]))
