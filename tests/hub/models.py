"""One tiny model in the files of every source, and presets for it."""

from __future__ import annotations

import dataclasses
import io
import json
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.exporting import DATA, tensors, write
from zoo import _registry, convert
from zoo.converters import open_conversion
from zoo.models._family import Config, Model, Preset, Source

HUBERT = DATA / "e3_resolved.pt"
WAVLM = DATA / "wavlm.pt"
Files = dict[str, bytes]


def config_of(path: Path) -> Config:
    with open_conversion(path) as conversion:
        return conversion.config


@contextmanager
def registered(*presets: Preset) -> Iterator[None]:
    """The registry with more names."""
    with pytest.MonkeyPatch.context() as patch:
        for preset in presets:
            family = _registry.families()[preset.config.family]
            more = dataclasses.replace(family, presets=(*family.presets, preset))
            patch.setitem(_registry.families(), preset.config.family, more)
        _registry._presets.cache_clear()
        yield
    _registry._presets.cache_clear()


def tiny(name: str, config: Config, *sources: Source, **more: object) -> Preset:
    return Preset(
        name=name, config=config, parameters=1, data="nothing", licence="MIT", paper="none", sources=sources, **more
    )


def folder(path: Path) -> Files:
    """The files of a folder."""
    return {file.name: file.read_bytes() for file in sorted(path.iterdir())}


def exported(source: Path, to: str, work: Path) -> bytes:
    write(source, work / "exported", to)
    return (work / "exported").read_bytes()


def torchaudio(source: Path, work: Path) -> bytes:
    """A state dict alone, as torchaudio's are."""
    content = write(source, work / "exported", "torchaudio")
    torch.save(content["state_dict"], work / "bare")
    return (work / "bare").read_bytes()


def tarred(source: Path) -> bytes:
    """The checkpoint beside a dictionary, as VoxPopuli's archives are."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as archive:
        for name, content in (("ft/dict.ltr.txt", b"a 1\n"), ("ft/checkpoint.pt", source.read_bytes())):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return written.getvalue()


def huggingface(source: Path, work: Path) -> Files:
    """A folder whose settings say the opposite about normalisation."""
    assert convert.main([str(source), "-o", str(work / "hf"), "--to", "hf"]) == 0
    files = folder(work / "hf")
    settings = json.loads(files["preprocessor_config.json"])
    settings["do_normalize"] = not settings["do_normalize"]
    return files | {"preprocessor_config.json": json.dumps(settings).encode()}


def sharded(files: Files, work: Path, suffix: str) -> Files:
    """A folder's weights in one or three files of a format."""
    (work / "all").write_bytes(files["model.safetensors"])
    state = load_file(work / "all")
    stem = {"safetensors": "model", "bin": "pytorch_model"}[suffix]
    made = {name: content for name, content in files.items() if name != "model.safetensors"}
    index = {}
    for number in range(3):
        name = f"{stem}-{number + 1:05d}-of-00003.{suffix}"
        part = {key: state[key].clone() for key in sorted(state)[number::3]}
        made[name] = _saved(part, work, suffix)
        index |= dict.fromkeys(part, name)
    return made | {f"{stem}.{suffix}.index.json": json.dumps({"metadata": {}, "weight_map": index}).encode()}


def pickled(files: Files, work: Path) -> Files:
    """A folder with `pytorch_model.bin`."""
    (work / "all").write_bytes(files["model.safetensors"])
    made = {name: content for name, content in files.items() if name != "model.safetensors"}
    return made | {"pytorch_model.bin": _saved(load_file(work / "all"), work, "bin")}


def _saved(state: dict[str, torch.Tensor], work: Path, suffix: str) -> bytes:
    save: Callable[..., None] = {"safetensors": save_file, "bin": torch.save}[suffix]
    save(state, work / "part")
    return (work / "part").read_bytes()


def same_weights(model: Model, original: Path) -> None:
    """Assert that a model has an original's parameters, bit for bit; a mask embedding may be lost on the way."""
    state = model.state_dict()
    want = {name: tensor for name, tensor in tensors(original).items() if not name.startswith("heads.")}
    assert state.keys() == want.keys()
    for name, value in want.items():
        if name != "masked_spec_embed":
            assert torch.equal(state[name], value.float()), name
