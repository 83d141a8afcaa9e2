"""What a dialect is given: an open torch file, or a Hugging Face folder."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from zoo._native import NativeFile, is_safetensors, lazy_tensors
from zoo._safetensors import open_safetensors
from zoo._tensors import Lazy
from zoo.converters._unpickle import LazyTensor, open_torch_file
from zoo.errors import CheckpointError

MAX_JSON_BYTES = 4 * 2**20
MAX_JSON_ITEMS = 150_000  # a vocabulary for each of 1162 languages is about 70 000
MAX_FILE_NAME = 255
MAX_SHARDS = 64
CODE = ("auto_map", "custom_pipelines")  # settings that name Python files of the folder


class Source(Protocol):
    """An open checkpoint.

    Attributes:
        path: the file or folder.
        container: "zip", "legacy", "safetensors" or "folder".
        globals: what the pickles of the source name.
        root: plain data with lazy tensors; of a folder, its JSON files by stem and `tensors`, name -> tensor.
    """

    path: Path
    container: str
    globals: tuple[str, ...]
    root: Any

    def close(self) -> None:
        """Close the file; its tensors cannot be loaded any more."""


@dataclass
class Unwritten:
    """What is about to be written, as it will be found by who reads it."""

    root: Any
    path: Path = Path()
    container: str = "memory"
    globals: tuple[str, ...] = ()

    def close(self) -> None:
        """Nothing is open."""


def open_source(path: Path) -> Source:
    """Open a checkpoint file, a native file or a Hugging Face folder; reads no tensor.

    Raises:
        CheckpointError: when it is neither, or damaged.
    """
    if not path.exists():
        raise CheckpointError(f"{path} does not exist; give the path of a checkpoint")
    if path.is_dir():
        return Folder(path)
    return NativeFile(path) if path.is_file() and is_safetensors(path) else open_torch_file(path)


class Folder:
    """A Hugging Face folder; files that are none of a model's are ignored."""

    container = "folder"
    JSON = ("config", "preprocessor_config", "processor_config", "tokenizer_config", "vocab")
    # Weights in order of preference; an index names the shards that hold each tensor.
    WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open = contextlib.ExitStack()
        self._globals: set[str] = set()
        if not (path / "config.json").is_file():
            raise CheckpointError(
                f"{path} is a folder without config.json, so no Hugging Face folder; give a checkpoint file"
            )
        self.root: dict[str, Any] = {name: _json(path / f"{name}.json") for name in self.JSON}
        for name, content in self.root.items():
            if code := next((key for key in CODE if content and content.get(key)), None):
                raise CheckpointError(
                    f"{path} has code of its own ({code} in {name}.json), which the zoo does not run; give a folder of "
                    "a model that the library itself has"
                )
        weights = next((path / name for name in self.WEIGHTS if (path / name).is_file()), None)
        if weights is None:
            raise CheckpointError(f"{path} holds no weights; expected one of {', '.join(self.WEIGHTS)}")
        self.weights = self._shards(weights) if weights.suffix == ".json" else [weights]
        try:
            tensors: dict[str, Lazy] = {}
            for file in self.weights:
                found = self._read(file)
                if twice := sorted(tensors.keys() & found.keys()):
                    raise CheckpointError(f"{path} holds the tensor {twice[0]} in two files; fetch it again")
                tensors |= found
        except CheckpointError:
            self.close()
            raise
        self.root["tensors"] = tensors
        self.globals = tuple(sorted(self._globals))

    def close(self) -> None:
        """Close the files; tensors cannot be loaded any more."""
        self._open.close()

    def _shards(self, index: Path) -> list[Path]:
        """Files that an index names; they must lie in the folder itself."""
        names = (_json(index) or {}).get("weight_map")
        if not isinstance(names, Mapping) or not all(map(_is_name, names.values())):
            raise CheckpointError(f"{index} has no weight_map from tensors to files of its folder")
        files = [index.parent / name for name in sorted(set(names.values()))]
        if len(files) > MAX_SHARDS:
            raise CheckpointError(f"{index} names {len(files)} files, where no model has more than {MAX_SHARDS}")
        for file in files:
            if not file.is_file():
                raise CheckpointError(f"{index} names the file {file.name}, which is not in the folder; fetch it")
        return files

    def _read(self, file: Path) -> Mapping[str, Lazy]:
        if file.suffix == ".safetensors":
            return _safetensors(file)
        source = open_torch_file(file)
        self._open.callback(source.close)
        self._globals.update(source.globals)
        if not isinstance(source.root, Mapping) or not all(isinstance(t, LazyTensor) for t in source.root.values()):
            raise CheckpointError(f"{file} is no state dict: it holds something else than tensors")
        return source.root


def _is_name(value: Any) -> bool:
    """Whether a value names a file in the folder itself."""
    return (
        isinstance(value, str)
        and value != ""
        and Path(value).name == value
        and len(os.fsencode(value)) <= MAX_FILE_NAME
    )


def _safetensors(path: Path) -> dict[str, Lazy]:
    return lazy_tensors(open_safetensors(path), path)


def _json(path: Path) -> Any:
    """Content of a JSON file that holds an object; None when there is no such file."""
    if not path.is_file():
        return None
    if path.stat().st_size > MAX_JSON_BYTES:
        raise CheckpointError(f"{path} is larger than {MAX_JSON_BYTES} bytes, which no such file is")
    try:
        text = path.read_text(encoding="utf-8")
        if text.count(",") > MAX_JSON_ITEMS:
            raise CheckpointError(f"{path} holds more than {MAX_JSON_ITEMS} items, which no such file does")
        value = json.loads(text)
    except (ValueError, OSError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a {type(value).__name__} instead of an object")
    return value
