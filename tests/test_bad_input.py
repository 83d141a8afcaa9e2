"""Whatever a user gets wrong gives one clear sentence, and nothing is written.

The sentences are committed in `snapshots/bad_input.json`, so that a change of wording is seen and read. To write them
anew: `ZOO_UPDATE_SNAPSHOTS=1 python -m pytest tests/test_bad_input.py`, then read the difference.
"""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import shutil
import stat
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import zoo
import zoo.__main__
import zoo.convert
from tests.trees import Tree, read
from zoo.models._family import Model

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "tests" / "data"
SPEECH = ROOT / "examples" / "audio" / "0_theo_0.wav"
SNAPSHOTS = ROOT / "tests" / "snapshots" / "bad_input.json"
UPDATE = "ZOO_UPDATE_SNAPSHOTS" in os.environ


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_OFFLINE", "1")
    monkeypatch.setenv("ZOO_CACHE", "cache")


def check(name: str, message: str) -> None:
    """Compare a message with the committed one."""
    committed = json.loads(SNAPSHOTS.read_text(encoding="utf-8")) if SNAPSHOTS.exists() else {}
    if UPDATE:
        committed = {known: text for known, text in committed.items() if known in ALL_NAMES} | {name: message}
        text = json.dumps(committed, indent=1, sort_keys=True, ensure_ascii=False)
        SNAPSHOTS.write_text(text + "\n", encoding="utf-8")
    assert message == committed.get(name)


def steady(message: str, folder: Path) -> str:
    """A message without what differs between machines: the temporary folder and the words of other libraries."""
    message = message.replace(str(folder), "<folder>")
    return re.sub(r"(damaged safetensors file|cannot read it as audio) \(.*\)(?=;)", r"\1 (<its words>)", message)


# The bad files


def model_field(name: str, value: Any) -> Callable[[Tree], None]:
    return lambda root: root["cfg"]["model"].update({name: value})


def distiller_field(name: str, value: Any) -> Callable[[Tree], None]:
    return lambda root: root["Config"]["distiller"].update({name: value})


def settings(root: Tree) -> None:
    """The layout that s3prl had before 2020."""
    upstream = root.pop("Upstream_Config")
    root["Settings"] = {"Config": upstream, "Paras": root.pop("Config")}


def extra_tensor(root: Tree) -> None:
    root["model"]["encoder.surprise\n\x1b[31m"] = torch.zeros(3)


def missing_tensor(root: Tree) -> None:
    del root["model"]["encoder.layer_norm.weight"]


def shape(root: Tree) -> None:
    root["model"]["encoder.layer_norm.weight"] = torch.zeros(3)


def no_tensor(root: Tree) -> None:
    root["model"]["encoder.layer_norm.weight"] = "weights"


def no_family(root: Tree) -> None:
    root["cfg"]["model"]["_name"] = "multires_hubert"
    del root["model"]["label_embs_concat"]


def contradictory_normalize(root: Tree) -> None:
    root["cfg"]["model"]["w2v_args"]["task"]["normalize"] = True


def parent_unknown(root: Tree) -> None:
    del root["cfg"]["model"]["w2v_args"]


def state(name: str, value: object) -> Callable[[Tree], None]:
    return lambda root: root["model"].update({name: value})


# name of the file -> (genuine checkpoint, what is changed in it)
EDITED: dict[str, tuple[str, Callable[[Tree], None]]] = {
    "multi.pt": ("e3_resolved", no_family),
    "conformer.pt": ("e3_resolved", model_field("layer_type", "conformer")),
    "conv_code.pt": ("e3_resolved", model_field("conv_feature_layers", "__import__('os').system('x')")),
    "conv_repeats.pt": ("e3_resolved", model_field("conv_feature_layers", "[(8, 10, 5)] * 1000000000")),
    "conv_product.pt": ("e3_resolved", model_field("conv_feature_layers", "[(8,10,5)] * 99999 * 99999")),
    "too_deep.pt": ("e3_resolved", model_field("encoder_layers", 10**9)),
    "extra_tensor.pt": ("e3_resolved", extra_tensor),
    "missing_tensor.pt": ("e3_resolved", missing_tensor),
    "shape.pt": ("e3_resolved", shape),
    "no_tensor.pt": ("e3_resolved", no_tensor),
    "dropout.pt": ("e3_resolved", model_field("dropout", 7.0)),
    "mode_list.pt": ("e3_resolved", model_field("extractor_mode", ["default"])),
    "key_number.pt": ("e3_resolved", lambda root: root["model"].update({1: torch.zeros(1)})),
    "integer_tensor.pt": ("e3_resolved", state("encoder.layer_norm.weight", torch.zeros(16, dtype=torch.int64))),
    "complex_tensor.pt": ("e3_resolved", state("final_proj.bias", torch.zeros(8, dtype=torch.complex64))),
    "languages.pt": ("mms", lambda root: root["adapter"].update(abc=root["adapter"]["xyz"])),
    "language_empty.pt": ("mms", lambda root: root["adapter"].update(xyz={})),
    "adapters_stacked.pt": ("mms", model_field("adp_num", 2)),
    "adapter_gelu.pt": ("mms", model_field("adp_act_fn", "gelu")),
    "adapter_missing.pt": ("mms", model_field("layer_type", "transformer")),
    "distiller_config.pt": ("distilhubert", lambda root: root["Config"].pop("distiller")),
    "distiller_task.pt": ("distilhubert", distiller_field("task_emb_type", "add")),
    "distiller_attention.pt": ("distilhubert", distiller_field("attention_type", "sparse")),
    "distiller_mode.pt": ("distilhubert", distiller_field("activation_fn", "relu")),
    "tera_audio.ckpt": ("s3prl/tera.ckpt", lambda root: root["Upstream_Config"].pop("audio")),
    "tera_settings.ckpt": ("s3prl/tera.ckpt", settings),
    "contradiction.pt": ("ctc_hubert", contradictory_normalize),
    "parent_unknown.pt": ("ctc_hubert", parent_unknown),
}


def config_field(name: str, value: Any) -> Callable[[Tree], None]:
    def edit(header: Tree) -> None:
        metadata = header["__metadata__"]
        metadata["zoo.config"] = json.dumps({**json.loads(metadata["zoo.config"]), name: value})

    return edit


def metadata(name: str, value: str) -> Callable[[Tree], None]:
    return lambda header: header["__metadata__"].update({name: value})


def native_missing(header: Tree) -> None:
    header["encoder.surprise"] = header.pop("encoder.layer_norm.weight")


def native_shape(header: Tree) -> None:
    rows, columns = header["encoder.layers.0.attention.k_proj.weight"]["shape"]
    header["encoder.layers.0.attention.k_proj.weight"]["shape"] = [2 * rows, columns // 2]


def native_integers(header: Tree) -> None:
    header["encoder.layer_norm.weight"]["dtype"] = "I32"


def no_metadata(header: Tree) -> None:
    del header["__metadata__"]


# What is changed in the header of a native file.
NATIVE: dict[str, Callable[[Tree], None]] = {
    "foreign.safetensors": no_metadata,
    "newer.safetensors": metadata("zoo.format", "2"),
    "no_json.safetensors": metadata("zoo.config", "{"),
    "deep_json.safetensors": metadata("zoo.config", "[" * 100_000),
    "no_object.safetensors": metadata("zoo.provenance", "[1]"),
    "missing.safetensors": native_missing,
    "shape.safetensors": native_shape,
    "unknown_field.safetensors": config_field("colour", "red"),
    "field_type.safetensors": config_field("num_layers", "three"),
    "field_range.safetensors": config_field("num_layers", -1),
    "family.safetensors": config_field("family", "gpt"),
    "family_list.safetensors": config_field("family", ["hubert"]),
    "sample_rate.safetensors": config_field("sample_rate", -16000),
    "eps.safetensors": config_field("normalize_eps", math.nan),
    "integers.safetensors": native_integers,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every bad file, beside a good checkpoint, a good model and a good recording."""
    here = tmp_path_factory.mktemp("user")
    genuine = (DATA / "e3_resolved.pt").read_bytes()
    legacy = (DATA / "e0_namespace_legacy.pt").read_bytes()
    noise = np.random.default_rng(0).bytes(5000)
    speech = SPEECH.read_bytes()
    files: dict[str, bytes] = {
        "good.pt": genuine,
        "speech.wav": speech,
        "empty.pt": b"",
        "cut_zip.pt": genuine[: len(genuine) // 2],
        "cut_legacy.pt": legacy[: len(legacy) // 2],
        "cut_legacy_pickle.pt": legacy[:500],
        "page.pt": b"<!DOCTYPE html>\n<html><body>403 Forbidden</body></html>\n",
        "pointer.pt": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
        "noise.pt": b"\x07" + noise,
        "notes.pt": b"lower the learning rate\n",
        "rate_zero.wav": speech[:24] + bytes(4) + speech[28:],
        "noise.wav": b"\x07" + noise,
        "headerless.raw": noise,
        "empty.txt": b"\n\n",
        "twice.txt": b"speech.wav\nspeech.wav\n",
        "latin1.txt": "Bj\u00f6rk.wav\n".encode("latin1"),
        "two_weights.json": b"[1, 2]",
        "infinite_weights.json": b"[Infinity, 1]",
        "no_weights.json": b"w = 1",
        "cut.npz": b"PK\x03\x04",
        "km.bin": b"\x80\x04" + noise,
    }
    for name, content in files.items():
        (here / name).write_bytes(content)
    for name in ("plain_folder", "hf_folder", "done"):
        (here / name).mkdir()
    (here / "hf_folder" / "config.json").write_text('{"model_type": "hubert"}')
    np.savez(here / "bare.npz", centroids=np.eye(16))
    zoo.Units(torch.eye(16), model="hubert_base", layer=1, model_sha256="0").save(here / "units.npz")
    shutil.copy(DATA / "wav2vec_u" / "plain.pt", here / "wav2vec_u.pt")
    shutil.copytree(DATA / "hf" / "ctc", here / "ctc")
    (here / "done" / "index.jsonl").write_text("{}\n")
    (here / "link.pt").symlink_to("good.pt")
    soundfile.write(here / "silent.wav", np.zeros(0), 16000)
    soundfile.write(here / "short.wav", np.zeros(300), 16000)
    soundfile.write(here / "stereo.wav", np.zeros((4000, 2)), 16000)
    soundfile.write(here / "one_hz.wav", np.zeros(4000), 1)
    soundfile.write(here / "nan.wav", np.full(4000, math.nan, np.float32), 16000, subtype="FLOAT")

    for name, (base, change) in EDITED.items():
        root = read(DATA / (base if "." in base else f"{base}.pt"))
        change(root)
        torch.save(root, here / name)
    net = {f"net.{name}": tensor for name, tensor in read(here / "good.pt")["model"].items()}
    torch.save(net, here / "bare.pt")
    assert zoo.convert.main([str(here / "good.pt"), "-o", str(here / "good.safetensors")]) == 0
    native = (here / "good.safetensors").read_bytes()
    end = 8 + int.from_bytes(native[:8], "little")
    for name, edit in NATIVE.items():
        header = json.loads(native[8:end])
        edit(header)
        text = json.dumps(header).encode()
        (here / name).write_bytes(struct.pack("<Q", len(text)) + text + native[end:])
    (here / "cut.safetensors").write_bytes(native[:-1000])
    return here


# The command line

OUT = "-o out --model good.safetensors"
REFUSED = {
    "info: near name": "zoo info hubert_bse",
    "info: no near name": "zoo info qqqq",
    "list: nothing matches": "zoo list 'bert*'",
    "convert: missing": "zoo.convert nowhere.pt",
    "convert: folder": "zoo.convert plain_folder",
    "convert: Hugging Face folder": "zoo.convert hf_folder",
    "convert: empty": "zoo.convert empty.pt",
    "convert: truncated zip": "zoo.convert cut_zip.pt",
    "convert: truncated legacy": "zoo.convert cut_legacy.pt",
    "convert: truncated legacy pickle": "zoo.convert cut_legacy_pickle.pt",
    "convert: HTML": "zoo.convert page.pt",
    "convert: Git-LFS pointer": "zoo.convert pointer.pt",
    "convert: random bytes": "zoo.convert noise.pt",
    "convert: text": "zoo.convert notes.pt",
    "convert: recording": "zoo.convert speech.wav",
    "convert: native": "zoo.convert good.safetensors",
    "convert: foreign safetensors": "zoo.convert foreign.safetensors",
    "convert: cut safetensors": "zoo.convert cut.safetensors",
    **{f"convert: {name}": f"zoo.convert {name}" for name in EDITED},
    "inspect: empty": "zoo.convert --inspect empty.pt --json",
    "inspect: shape": "zoo.convert --inspect shape.pt",
    "dry run: missing tensor": "zoo.convert --dry-run missing_tensor.pt",
    "convert: bare state dict": "zoo.convert bare.pt",
    "convert: bare state dict of another size": "zoo.convert bare.pt --preset hubert_base",
    "convert: no such preset": "zoo.convert bare.pt --preset hubert_bse",
    "convert: native with a preset": "zoo.convert good.safetensors --preset hubert_base",
    "convert: language": "zoo.convert good.pt --language xyz",
    "convert: language of a folder": "zoo.convert ctc --language xyz",
    "extract: TERA before 2020": "zoo extract speech.wav -o out --model tera_settings.ckpt",
    "extract: TERA without audio": "zoo extract speech.wav -o out --model tera_audio.ckpt",
    "extract: model takes features": "zoo extract speech.wav -o out --model wav2vec_u.pt",
    "convert: OUT exists": "zoo.convert good.pt",
    "convert: OUT is a folder": "zoo.convert good.pt -o plain_folder --force",
    "convert: OUT is the source": "zoo.convert good.pt -o good.pt",
    "convert: OUT is the source, forced": "zoo.convert good.pt -o ./plain_folder/../good.pt --force",
    "convert: OUT is a link to the source": "zoo.convert good.pt -o link.pt --force",
    "convert: OUT in no folder": "zoo.convert good.pt -o nowhere/good.safetensors",
    "convert: OUT below a file": "zoo.convert good.pt -o speech.wav/good.safetensors",
    "convert: OUT too long": f"zoo.convert good.pt -o {'x' * 300}",
    "extract: no such model": "zoo extract speech.wav -o out --model wavlm_bsae",
    "fetch: nothing": "zoo fetch",
    "fetch: no such name": "zoo fetch hubert_bas",
    "fetch: no such family": "zoo fetch --all hubrt",
    "fetch: a family without weights": "zoo fetch --all baseline",
    "fetch: no weights needed": "zoo fetch fbank",
    "fetch: no weights released": "zoo fetch wav2vec_u2",
    "fetch: offline": "zoo fetch hubert_base",
    "fetch: one file for two names": "zoo fetch hubert_base wavlm_base --from model.pt",
    "fetch: no such file": "zoo fetch hubert_base --from missing.pt",
    "fetch: a file for a repository": "zoo fetch hf:org/repo --from missing.pt",
    "fetch: no repository": "zoo fetch hf:../../etc",
    "fetch: no revision": "zoo fetch hf:org/repo@../../x",
    "extract: model not here": "zoo extract speech.wav -o out --model hubert_base",
    "extract: model missing": "zoo extract speech.wav -o out --model nowhere.pt",
    "extract: model is a folder": "zoo extract speech.wav -o out --model plain_folder",
    "extract: model is a recording": "zoo extract speech.wav -o out --model speech.wav",
    "extract: missing": f"zoo extract nowhere.wav {OUT}",
    "extract: folder without audio": f"zoo extract hf_folder {OUT}",
    "extract: empty list": f"zoo extract empty.txt {OUT}",
    "extract: list in latin1": f"zoo extract latin1.txt {OUT}",
    "extract: OUT is a file": "zoo extract speech.wav -o good.pt --model good.safetensors",
    "extract: OUT below a file": "zoo extract speech.wav -o good.pt/out --model good.safetensors",
    "extract: OUT is in use": "zoo extract speech.wav -o done --model good.safetensors",
    "extract: layer too high": f"zoo extract speech.wav {OUT} --layers 0,9",
    "extract: layer too low": f"zoo extract speech.wav {OUT} --layers=-3",
    "extract: layers misspelt": f"zoo extract speech.wav {OUT} --layers first",
    "extract: no layers": f"zoo extract speech.wav {OUT} --layers ''",
    "extract: weights missing": f"zoo extract speech.wav {OUT} --layers weighted:nowhere.json",
    "extract: weights of another model": f"zoo extract speech.wav {OUT} --layers weighted:two_weights.json --padding "
    "reference --model {deep}",
    "extract: weights not finite": f"zoo extract speech.wav {OUT} --layers weighted:infinite_weights.json",
    "extract: weights no JSON": f"zoo extract speech.wav {OUT} --layers weighted:no_weights.json",
    "extract: units missing": f"zoo extract speech.wav {OUT} --units nowhere.npz",
    "extract: units are a pickle": f"zoo extract speech.wav {OUT} --units km.bin",
    "extract: units of another model": f"zoo extract speech.wav {OUT} --units units.npz",
    "extract: units of another layer": f"zoo extract speech.wav {OUT} --units units.npz --layers 0",
    "extract: units of two layers": f"zoo extract speech.wav {OUT} --units units.npz --layers 0,1",
    "extract: units of no known layer": f"zoo extract speech.wav {OUT} --units bare.npz",
    "extract: units of another width": f"zoo extract speech.wav {OUT} --units bare.npz --layers 0 --model {{deep}}",
    "extract: text without units": f"zoo extract speech.wav {OUT} --units-text",
    "extract: text of one name twice": f"zoo extract twice.txt {OUT} --units units.npz --merge",
    "units: missing": "zoo units fit nowhere.wav -o k.npz --model good.safetensors --layer 1",
    "units: no such layer": "zoo units fit speech.wav -o k.npz --model good.safetensors --layer 9",
    "units: OUT exists": "zoo units fit speech.wav -o units.npz --model good.safetensors --layer 1",
    "units: OUT in no folder": "zoo units fit speech.wav -o nowhere/k.npz --model good.safetensors --layer 1",
    "units: too few frames": "zoo units fit speech.wav -o k.npz --model good.safetensors --layer 1 --clusters 500",
    "units: no share": "zoo units fit speech.wav -o k.npz --model good.safetensors --layer 1 --share 0",
    "units: no clusters": "zoo units fit speech.wav -o k.npz --model good.safetensors --layer 1 --clusters 0",
    "extract: batch of nothing": f"zoo extract speech.wav {OUT} --batch-seconds 0",
    "extract: batch of NaN": f"zoo extract speech.wav {OUT} --batch-seconds nan",
}
# These are refused one by one, while the others go on.
RECORDINGS = (
    "rate_zero.wav",
    "one_hz.wav",
    "stereo.wav",
    "nan.wav",
    "short.wav",
    "silent.wav",
    "noise.wav",
    "headerless.raw",
    "good.pt",
)
USAGE = {
    "zoo": "COMMAND",
    "zoo nonsense": "nonsense",
    "zoo info": "name",
    "zoo extract speech.wav": "-o/--output, --model",
    f"zoo extract speech.wav {OUT} --padding none": "--padding",
    f"zoo extract speech.wav {OUT} --format mat": "--format",
    f"zoo extract speech.wav {OUT} --device nonsense": "'nonsense' cannot be used",
    f"zoo extract speech.wav {OUT} --batch-seconds many": "--batch-seconds",
    "zoo units": "action, FILE|DIR|LIST, -o/--output, --model, --layer",
    "zoo.convert": "SOURCE",
    "zoo.convert good.pt --dtype int8": "--dtype",
    "zoo.convert good.pt --to pdf": "--to",
    "zoo.convert good.pt --colour": "--colour",
}


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Everything below a folder, with what changes when a file is written to."""
    states = {str(path): path.lstat() for path in folder.rglob("*")}
    return {
        name: (state.st_size, state.st_mtime_ns) for name, state in states.items() if not stat.S_ISDIR(state.st_mode)
    }


def call(command: str) -> int:
    module, *arguments = shlex.split(command.replace("{deep}", str(ROOT / "examples" / "hubert_tiny.pt")))
    return {"zoo": zoo.__main__.main, "zoo.convert": zoo.convert.main}[module](arguments)


@pytest.mark.parametrize("name", REFUSED)
def test_refused(
    name: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    before = listing(folder)
    status = call(REFUSED[name])
    printed = capsys.readouterr()
    assert status == 1
    assert printed.out == ""
    assert printed.err.endswith("\n") and printed.err.count("\n") == 1
    assert listing(folder) == before
    check(name, steady(printed.err.rstrip("\n"), folder))


@pytest.mark.parametrize("recording", RECORDINGS)
def test_recording_refused(
    recording: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    before = listing(folder)
    status = call(f"zoo extract {recording} {OUT}")
    printed = capsys.readouterr()
    assert status == 1
    assert printed.out == "0 of 1 files extracted; nothing was written\n"
    assert printed.err.endswith("\n") and printed.err.count("\n") == 1
    assert listing(folder) == before
    check(f"recording: {recording}", steady(printed.err.rstrip("\n"), folder))


@pytest.mark.parametrize("command", USAGE)
def test_usage(command: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(folder)
    before = listing(folder)
    status = call(command)
    printed = capsys.readouterr()
    assert status == 2
    assert printed.out == ""
    assert printed.err.startswith("usage: ") and USAGE[command] in printed.err.splitlines()[-1]
    assert listing(folder) == before


@pytest.mark.parametrize("name", ["extract: no such model", "convert: extra_tensor.pt"])
def test_refused_in_a_process_of_its_own(name: str, folder: Path) -> None:
    before = listing(folder)
    done = subprocess.run(
        [sys.executable, "-m", *shlex.split(REFUSED[name])],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith("\n") and done.stderr.count("\n") == 1
    assert listing(folder) == before
    check(name, steady(done.stderr.rstrip("\n"), folder))


# Python

WAVES = torch.zeros(2, 4000)


def forward(*args: Any, **kwargs: Any) -> Callable[[Model], object]:
    return lambda model: model(*args, **kwargs)


def extract(*args: Any, **kwargs: Any) -> Callable[[Model], object]:
    return lambda model: zoo.extract(model, *(args or ([WAVES[0]],)), **kwargs)


def set_padding(model: Model) -> None:
    model.padding = "none"


RAISES: dict[str, Callable[[Model], object]] = {
    "build: unknown name": lambda model: zoo.build("wav2vec2_base"),
    "build: unknown field": lambda model: zoo.build("hubert_base", layers=2),
    "build: bad value": lambda model: zoo.build("hubert_base", num_heads=7),
    "info: unknown name": lambda model: zoo.info("HuBERT-base"),
    "load: unknown name": lambda model: zoo.load("hubert_basee"),
    "load: not supported": lambda model: zoo.load("lighthubert"),
    "load: missing": lambda model: zoo.load("nowhere.safetensors"),
    "load: missing, a Path": lambda model: zoo.load(Path("nowhere") / "hubert"),
    "load: folder": lambda model: zoo.load("plain_folder"),
    "load: Hugging Face folder": lambda model: zoo.load(Path("hf_folder")),
    "load: Hugging Face name": lambda model: zoo.load("hf:facebook/hubert-base-ls960"),
    "load: HTML": lambda model: zoo.load("page.pt"),
    "load: Git-LFS pointer": lambda model: zoo.load("pointer.pt"),
    "load: cut safetensors": lambda model: zoo.load("cut.safetensors"),
    **{f"load: {name}": (lambda model, name=name: zoo.load(name)) for name in NATIVE},
    "load: padding": lambda model: zoo.load("good.safetensors", padding="none"),
    "padding": set_padding,
    "save: no model": lambda model: zoo.save(torch.nn.Linear(2, 2), "out.safetensors"),  # type: ignore[arg-type]
    "save: no folder": lambda model: zoo.save(model, "nowhere/out.safetensors"),
    "save: onto a folder": lambda model: zoo.save(model, "plain_folder"),
    "forward: integers": forward(torch.zeros(2, 4000, dtype=torch.int16)),
    "forward: 1-D": forward(WAVES[0]),
    "forward: 3-D": forward(WAVES[:, None]),
    "forward: no utterance": forward(WAVES[:0]),
    "forward: empty list": forward([]),
    "forward: list of 2-D": forward([WAVES[0], WAVES]),
    "forward: list of integers": forward([torch.zeros(4000, dtype=torch.int16)]),
    "forward: list and lengths": forward([WAVES[0]], [4000]),
    "forward: too short": forward(WAVES[:, :399]),
    "forward: too long": forward(WAVES, [4000, 4001]),
    "forward: length zero": forward(WAVES, [4000, 0]),
    "forward: length negative": forward(WAVES, [4000, -1]),
    "forward: lengths missing": forward(WAVES, [4000]),
    "forward: lengths float": forward(WAVES, torch.tensor([1.0, 0.5])),
    "forward: lengths list of floats": forward(WAVES, [4000.0, 3999.5]),
    "forward: layers float": forward(WAVES, layers=[0.5]),
    "forward: layers text": forward(WAVES, layers="all"),
    "forward: lengths 2-D": forward(WAVES, torch.tensor([[4000], [4000]])),
    "forward: lengths no numbers": forward(WAVES, ["long", "short"]),
    "forward: layer too high": forward(WAVES, layers=[2]),
    "forward: layer too low": forward(WAVES, layers=[-3]),
    "forward: no layers": forward(WAVES, layers=[]),
    "forward: one layer": forward(WAVES, layers=1),
    "features: width": lambda model: zoo.load("wav2vec_u.pt")(torch.zeros(1, 9, 7)),
    "features: list, width": lambda model: zoo.load("wav2vec_u.pt")([torch.zeros(9, 8), torch.zeros(9, 7)]),
    "transcribe: no dictionary": lambda model: zoo.load("wav2vec_u.pt").transcribe(torch.zeros(1, 9, 8)),
    "transcribe: width": lambda model: zoo.load("wav2vec_u.pt").transcribe(torch.zeros(1, 9, 7), symbols=["x"] * 11),
    "extract: one path": extract("speech.wav"),
    "extract: one Path": extract(Path("speech.wav")),
    "extract: one waveform": extract(WAVES[0]),
    "extract: one array": extract(np.zeros(4000, np.float32)),
    "extract: layers": extract(layers=[5]),
    "extract: rate 0": extract(sample_rate=0),
    "extract: rate negative": extract(sample_rate=-16000),
    "extract: rate float": extract(sample_rate=16000.5),
    "extract: rate huge": extract(sample_rate=10**9),
    "extract: rate text": extract(sample_rate="16k"),
    "units: damaged": lambda model: zoo.Units.load("cut.npz"),
    "units: width": lambda model: zoo.Units(torch.eye(3))(WAVES),
    "units: NaN centroids": lambda model: zoo.Units(torch.full((3, 2), math.nan)),
    "units: another model": lambda model: zoo.Units.load("units.npz").check(model, 1),
    "units: no frames": lambda model: zoo.Units.fit([], 2),
    "extract: batch_seconds 0": extract(batch_seconds=0),
    "extract: batch_seconds NaN": extract(batch_seconds=math.nan),
}
ITEMS: dict[str, Any] = {
    "integers": np.zeros(4000, np.int16),
    "stereo": torch.zeros(2, 4000),
    "NaN": torch.full((4000,), math.nan),
    "infinite": np.full(4000, np.inf),
    "too short": torch.zeros(399),
    "empty": np.zeros(0),
    "None": None,
    "number": 3.0,
    "objects": np.array([None]),
    "missing": "nowhere.wav",
    "folder": Path("plain_folder"),
    "no audio": "notes.pt",
}


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return zoo.load(folder / "good.safetensors")


@pytest.mark.parametrize("name", RAISES)
def test_raises(name: str, folder: Path, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    before = listing(folder)
    with pytest.raises(zoo.ZooError) as raised:
        RAISES[name](model)
    assert listing(folder) == before
    check(f"python: {name}", f"{raised.type.__name__}: {steady(str(raised.value), folder)}")


@pytest.mark.parametrize("name", ITEMS)
def test_item_refused(name: str, folder: Path, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (extraction,) = zoo.extract(model, [ITEMS[name]], progress=False)
    assert extraction.hidden_states == () and extraction.error is not None
    check(f"item: {name}", steady(extraction.error, folder))


# The snapshots

ALL_NAMES = {
    *REFUSED,
    *(f"recording: {name}" for name in RECORDINGS),
    *(f"python: {name}" for name in RAISES),
    *(f"item: {name}" for name in ITEMS),
}


def test_the_snapshots_are_those_of_the_cases() -> None:
    assert json.loads(SNAPSHOTS.read_text(encoding="utf-8")).keys() == ALL_NAMES


def test_the_sentences_are_plain() -> None:
    for name, text in json.loads(SNAPSHOTS.read_text(encoding="utf-8")).items():
        assert text.isprintable(), name
        assert not re.search(r"Traceback|Errno|object at 0x|<class|\.$|  ", text), name
        assert len(text) < 450, name
