"""`python -m zoo extract`: features of audio files, or discrete units."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from zoo import Units, _native, load
from zoo._audio import BATCH_SECONDS, Extraction, checked, extract_checked
from zoo._cli import Commands, device
from zoo.errors import InputError, printable
from zoo.models._family import Model

LIST_SUFFIXES = {".txt", ".lst", ".list"}
OTHER_SUFFIXES = {".aif", ".oga", ".opus", ".sph"}  # of audio formats whose name libsndfile spells otherwise
INDEX = "index.jsonl"
UNITS_TEXT = "units.txt"
SOURCE = "FILE|DIR|LIST"
SOURCE_HELP = (
    f"audio file, folder with all below it, or text file ({', '.join(sorted(LIST_SUFFIXES))}) with one path a line"
)


def add(commands: Commands) -> None:
    """Add the command to the command line."""
    command = commands.add_parser("extract", help="features of audio files, or discrete units")
    command.add_argument("source", type=Path, metavar=SOURCE, help=SOURCE_HELP)
    command.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="folder to write to")
    command.add_argument("--model", required=True, metavar="NAME|PATH", help="checkpoint file or name of a model")
    command.add_argument(
        "--layers",
        help="all, last, indices such as 0,9,12 (from the end: --layers=-1,-2), or weighted:FILE, a JSON list of "
        "weights to sum all of them with (default: all; with --units: the layer that they are of)",
    )
    command.add_argument(
        "--format",
        choices=("safetensors", "npy"),
        default="safetensors",
        help="safetensors: hidden_states.<layer> of shape (frames, width); npy: one (layers, frames, width) array; of "
        "units (frames,) int32, in safetensors as units (default: safetensors)",
    )
    command.add_argument(
        "--units",
        type=Path,
        metavar="NPZ",
        help="write units instead, the nearest centroids of python -m zoo units fit",
    )
    command.add_argument("--units-force", action="store_true", help="also where they are of another model or layer")
    command.add_argument(
        "--units-text", action="store_true", help=f"also write {UNITS_TEXT}, a line id|u1 u2 ... for each file"
    )
    command.add_argument("--merge", action="store_true", help="the same, with each run of equal units as one")
    add_run_options(command)
    command.add_argument("--force", action="store_true", help=f"write into a folder that has an {INDEX} already")
    command.set_defaults(run=_extract)


def add_run_options(command: argparse.ArgumentParser) -> None:
    """Add the options that say how a model is run."""
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


def _extract(args: argparse.Namespace) -> int:
    inputs = audio_files(args.source)
    if (args.output / INDEX).exists() and not args.force:
        raise InputError(f"{args.output / INDEX} exists already; choose another folder or give --force")
    if args.output.exists() and not args.output.is_dir():
        raise InputError(f"{args.output} is a file; give a folder with -o")
    with_text = args.units_text or args.merge
    if args.units is None and (with_text or args.units_force):
        raise InputError("--units-text, --merge and --units-force say what to do with units; give --units as well")
    ids = _ids([name for _, name in inputs]) if with_text else []
    units = None if args.units is None else Units.load(args.units)
    model = load(args.model, padding=args.padding, device=args.device)
    if units is None:
        keep, (layers, weights) = None, _layers("all" if args.layers is None else args.layers, model)
    else:
        keep, (layers, weights) = (lambda _, states: (units(*states),)), (_layer_of(units, args, model), None)
    indices, rate = checked(model, layers, None, args.batch_seconds)
    paths = [path for path, _ in inputs]
    lines, failed = [], 0
    with ExitStack() as stack:
        text: BinaryIO | None = None
        for item in extract_checked(model, paths, indices, rate, args.batch_seconds, True, len(paths), keep):
            path, name = inputs[item.index]
            record: dict[str, Any] = {"source": str(path)}
            if item.error is None:
                target = args.output / f"{name}.{args.format}"
                target.parent.mkdir(parents=True, exist_ok=True)
                frames = _write(target, item, weights, args.format, units is not None)
                if with_text:
                    text = text or stack.enter_context(_native.replacing(args.output / UNITS_TEXT))
                    text.write(_line(ids[item.index], item.hidden_states[0].numpy(), args.merge).encode())
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


def _layer_of(units: Units, args: argparse.Namespace, model: Model) -> list[int]:
    """The one layer that units are made of."""
    if args.layers is None and units.layer is None:
        raise InputError(f"{args.units} does not say of which layer its units are; give it with --layers")
    layers, _ = _layers(str(units.layer) if args.layers is None else args.layers, model)
    if layers is None or len(layers) != 1:
        raise InputError(f"units are of one layer, and --layers {args.layers!r} was asked for; give one index")
    (layer,) = model.layer_indices(layers)
    if not args.units_force:
        try:
            units.check(model, layer)
        except InputError as error:
            raise InputError(f"{args.units} cannot be used: {error}, or give --units-force") from None
    return [layer]


def _ids(names: Sequence[Path]) -> list[str]:
    """What each recording is called in the text of units, which is its name without suffix, as fairseq's."""
    ids = [printable(name.with_suffix("").as_posix()) for name in names]
    twice = next((one for one, count in Counter(ids).items() if count > 1), None)
    if twice is not None:
        raise InputError(f"two recordings would be {twice!r} in {UNITS_TEXT}; give one of them or leave the text out")
    return ids


def _line(name: str, units: np.ndarray[Any, Any], merge: bool) -> str:
    """A line of fairseq's examples/textless_nlp/gslm/speech2unit/clustering/quantize_with_kmeans.py."""
    if merge:
        units = units[np.diff(units, prepend=-1) != 0]
    return f"{name}|{' '.join(map(str, units))}\n"


def audio_files(source: Path) -> list[tuple[Path, Path]]:
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


def _write(target: Path, item: Extraction, weights: Tensor | None, form: str, units: bool) -> int:
    """Write the features or units of one utterance; returns its frames."""
    names, states = [f"hidden_states.{layer}" for layer in item.layers], list(item.hidden_states)
    if units:
        names = ["units"]
    elif weights is not None:
        summed = torch.stack([w * state.float() for w, state in zip(weights, states)]).sum(0)
        names, states = ["hidden_states.weighted"], [summed]
    with _native.replacing(target) as file:
        if form == "npy":
            np.save(file, (states[0] if units else torch.stack(states).float()).numpy())
        else:
            file.write(save(dict(zip(names, states))))
    return len(states[0])
