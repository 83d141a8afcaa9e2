"""`python -m zoo extract`: features of audio files."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from zoo import _native, extract, load
from zoo._audio import BATCH_SECONDS, Extraction
from zoo._cli import Commands, device
from zoo.errors import InputError, printable
from zoo.models._family import Model

LIST_SUFFIXES = {".txt", ".lst", ".list"}
OTHER_SUFFIXES = {".aif", ".oga", ".opus", ".sph"}  # of audio formats whose name libsndfile spells otherwise
INDEX = "index.jsonl"


def add(commands: Commands) -> None:
    """Add the command to the command line."""
    command = commands.add_parser("extract", help="features of audio files")
    command.add_argument(
        "source",
        type=Path,
        metavar="FILE|DIR|LIST",
        help=f"audio file, folder with all below it, or text file ({_suffixes()}) with one path a line",
    )
    command.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="folder to write to")
    command.add_argument("--model", required=True, metavar="NAME|PATH", help="checkpoint file or name of a model")
    command.add_argument(
        "--layers",
        default="all",
        help="all, last, indices such as 0,9,12 (from the end: --layers=-1,-2), or weighted:FILE, a JSON list of "
        "weights to sum all of them with (default: all)",
    )
    command.add_argument(
        "--format",
        choices=("safetensors", "npy"),
        default="safetensors",
        help="safetensors: hidden_states.<layer> of shape (frames, width); npy: one (layers, frames, width) array "
        "(default: safetensors)",
    )
    command.add_argument(
        "--padding",
        choices=Model.PADDING_MODES,
        default="exact",
        help="exact: as if each file came alone; reference: as the model's own toolkit pads a batch (default: exact)",
    )
    command.add_argument("--device", type=device, default="cpu", help="such as cuda:0 (default: cpu)")
    command.add_argument(
        "--batch-seconds",
        type=float,
        default=BATCH_SECONDS,
        metavar="S",
        help="audio in a batch (default: %(default)s)",
    )
    command.add_argument("--force", action="store_true", help=f"write into a folder that has an {INDEX} already")
    command.set_defaults(run=_extract)


def _suffixes() -> str:
    return ", ".join(sorted(LIST_SUFFIXES))


def _extract(args: argparse.Namespace) -> int:
    inputs = _inputs(args.source)
    if (args.output / INDEX).exists() and not args.force:
        raise InputError(f"{args.output / INDEX} exists already; choose another folder or give --force")
    if args.output.exists() and not args.output.is_dir():
        raise InputError(f"{args.output} is a file; give a folder with -o")
    model = load(args.model, padding=args.padding, device=args.device)
    layers, weights = _layers(args.layers, model)
    lines, failed = [], 0
    for item in extract(model, [path for path, _ in inputs], layers=layers, batch_seconds=args.batch_seconds):
        path, name = inputs[item.index]
        record: dict[str, Any] = {"source": str(path)}
        if item.error is None:
            target = args.output / f"{name}.{args.format}"
            target.parent.mkdir(parents=True, exist_ok=True)
            frames = _write(target, item, weights, args.format)
            record |= {"output": str(target.relative_to(args.output)), "frames": frames, "seconds": item.seconds}
        else:
            failed += 1
            print(f"zoo extract: {printable(item.error)}", file=sys.stderr)
            record |= {"error": item.error}
        lines.append(json.dumps(record))
    if failed < len(inputs):
        with _native.replacing(args.output / INDEX) as file:
            file.write("".join(line + "\n" for line in lines).encode())
    done = len(inputs) - failed
    if args.json:
        print(json.dumps({"output": str(args.output), "done": done, "failed": failed}))
    else:
        where = f" to {args.output}" if done else "; nothing was written"
        print(printable(f"{done} of {len(inputs)} files extracted{where}"))
    return 1 if failed else 0


def _inputs(source: Path) -> list[tuple[Path, Path]]:
    """Audio files to read, each with its name in the output."""
    if source.is_dir():
        import soundfile

        known = {f".{name.lower()}" for name in soundfile.available_formats()} - {".raw"} | OTHER_SUFFIXES
        inputs = [(path, path.relative_to(source)) for path in _files(source) if path.suffix.lower() in known]
        if not inputs:
            raise InputError(
                f"{source} holds no audio files that libsndfile reads; give another folder or a list of paths"
            )
        return inputs
    if not source.exists():
        raise InputError(f"{source} does not exist; give an audio file, a folder or a list of paths")
    if source.suffix.lower() not in LIST_SUFFIXES:
        return [(source, Path(source.name))]
    try:
        lines = [line.strip() for line in source.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError:
        raise InputError(f"{source} is no list of paths: it is not UTF-8 text; write one audio file a line") from None
    paths = [Path(line) for line in lines if line]
    if not paths:
        raise InputError(f"{source} lists no paths; write one audio file a line")
    absolute = [os.path.abspath(path) for path in paths]  # without "..", which would lead out of the output
    common = os.path.commonpath([os.path.dirname(path) for path in absolute])
    return [(path, Path(os.path.relpath(full, common))) for path, full in zip(paths, absolute)]


def _files(folder: Path, above: frozenset[Path] = frozenset()) -> Iterator[Path]:
    """Files below a folder, sorted; links to folders are followed unless they lead back up."""
    here = folder.resolve()
    if here in above:
        return
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            yield from _files(path, above | {here})
        else:
            yield path


def _layers(text: str, model: Model) -> tuple[Sequence[int] | None, Tensor | None]:
    """Layers to extract, and the weights to sum them with."""
    if text == "all":
        return None, None
    if text == "last":
        return [-1], None
    if text.startswith("weighted:"):
        return None, _weights(Path(text.removeprefix("weighted:")), model.num_layers + 1)
    try:
        return [int(part) for part in text.split(",")], None
    except ValueError:
        raise InputError(f"--layers {text!r} was asked for; give all, last, 0,9,12 or weighted:FILE") from None


def _weights(path: Path, count: int) -> Tensor:
    try:
        weights = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} cannot be read as a JSON list of weights: {error}") from None
    numbers = isinstance(weights, list) and all(type(w) in (int, float) and math.isfinite(w) for w in weights)
    if not numbers or len(weights) != count:
        raise InputError(f"{path} must hold a JSON list of {count} finite numbers, one per hidden state of the model")
    return torch.tensor(weights, dtype=torch.float32)


def _write(target: Path, item: Extraction, weights: Tensor | None, form: str) -> int:
    """Write the features of one utterance; returns its frames."""
    names, states = [f"hidden_states.{layer}" for layer in item.layers], list(item.hidden_states)
    if weights is not None:
        summed = torch.stack([w * state.float() for w, state in zip(weights, states)]).sum(0)
        names, states = ["hidden_states.weighted"], [summed]
    with _native.replacing(target) as file:
        if form == "npy":
            np.save(file, torch.stack(states).float().numpy())
        else:
            file.write(save(dict(zip(names, states))))
    return len(states[0])
