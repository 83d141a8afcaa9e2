"""`python -m zoo`: list, info, extract. Results go to stdout, progress and messages to stderr."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo import __version__, _native, extract, info, list_models, load
from zoo._audio import BATCH_SECONDS, Extraction
from zoo.errors import InputError, ZooError
from zoo.models._family import Model

LIST_SUFFIXES = {".txt", ".lst", ".list"}
INDEX = "index.jsonl"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0: done; 1: refused or failed, with one sentence on stderr; 2: usage.
    """
    parser = argparse.ArgumentParser(prog="python -m zoo", description="Self-supervised speech models.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    command = commands.add_parser("list", help="names of the models")
    command.add_argument("pattern", nargs="?", default="*", help='shell pattern, such as "*hubert*"')
    command.set_defaults(run=_list)

    command = commands.add_parser("info", help="what is known about a model")
    command.add_argument("name")
    command.set_defaults(run=_info)

    command = commands.add_parser("extract", help="features of audio files")
    command.add_argument(
        "source", type=Path, metavar="FILE|DIR|LIST", help=f"audio file, folder, or list of paths ({_suffixes()})"
    )
    command.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="folder to write to")
    command.add_argument("--model", required=True, metavar="NAME|PATH")
    command.add_argument(
        "--layers", default="all", help="all, last, indices such as 0,9,12, or weighted:FILE (a JSON list of weights)"
    )
    command.add_argument("--format", choices=("safetensors", "npy"), default="safetensors")
    command.add_argument("--padding", choices=Model.PADDING_MODES, default="exact")
    command.add_argument("--device", default=None, help="default: cpu")
    command.add_argument("--batch-seconds", type=float, default=BATCH_SECONDS, help="audio in a batch")
    command.add_argument("--force", action="store_true", help=f"write into a folder that has an {INDEX} already")
    command.set_defaults(run=_extract)

    for command in commands.choices.values():
        command.add_argument("--json", action="store_true", help="print the result as JSON")
    try:
        args = parser.parse_args(argv)
    except SystemExit as stop:
        return 2 if stop.code else 0
    try:
        status: int = args.run(args)
    except (ZooError, OSError) as error:
        print(f"zoo {args.command}: {error}", file=sys.stderr)
        return 1
    return status


def _suffixes() -> str:
    return ", ".join(sorted(LIST_SUFFIXES))


def _list(args: argparse.Namespace) -> int:
    names = list_models(args.pattern)
    if args.json:
        print(json.dumps([_record(name) for name in names], indent=1))
    else:
        for name in names:
            record = info(name)
            print(f"{name:44s} {record.family:10s} {record.parameters / 1e6:7.1f} M  {record.data}")
    if not names:
        raise InputError(f"no model name matches {args.pattern!r}; `python -m zoo list` prints every name")
    return 0


def _info(args: argparse.Namespace) -> int:
    record = _record(args.name)
    if args.json:
        print(json.dumps(record, indent=1))
        return 0
    for key, value in record.items():
        if key == "sources":
            print("sources:")
            for source in value:
                print(f"  {source['dialect']}: {source['url']}")
        elif key != "config":
            print(f"{key}: {', '.join(value) or '-' if isinstance(value, (list, tuple)) else _text(value)}")
    return 0


def _text(value: Any) -> str:
    if value is None:
        return "not known"
    return ("yes" if value else "no") if isinstance(value, bool) else str(value) or "-"


def _record(name: str) -> dict[str, Any]:
    return dataclasses.asdict(info(name))


def _extract(args: argparse.Namespace) -> int:
    paths, root = _inputs(args.source)
    if (args.output / INDEX).exists() and not args.force:
        raise InputError(f"{args.output / INDEX} exists already; choose another folder or give --force")
    if args.output.exists() and not args.output.is_dir():
        raise InputError(f"{args.output} is a file; give a folder with -o")
    model = load(args.model, padding=args.padding, device=args.device)
    layers, weights = _layers(args.layers, model)
    lines, failed = [], 0
    for item in extract(model, paths, layers=layers, batch_seconds=args.batch_seconds):
        path = paths[item.index]
        record: dict[str, Any] = {"source": str(path)}
        if item.error is None:
            target = args.output / f"{path.relative_to(root)}.{args.format}"
            target.parent.mkdir(parents=True, exist_ok=True)
            frames = _write(target, item, weights, args.format)
            record |= {"output": str(target.relative_to(args.output)), "frames": frames, "seconds": item.seconds}
        else:
            failed += 1
            print(f"zoo extract: {item.error}", file=sys.stderr)
            record |= {"error": item.error}
        lines.append(json.dumps(record))
    if failed < len(paths):
        with _native.replacing(args.output / INDEX) as file:
            file.write("".join(line + "\n" for line in lines).encode())
    done = len(paths) - failed
    if args.json:
        print(json.dumps({"output": str(args.output), "done": done, "failed": failed}))
    else:
        print(f"{done} of {len(paths)} files extracted" + (f" to {args.output}" if done else "; nothing was written"))
    return 1 if failed else 0


def _inputs(source: Path) -> tuple[list[Path], Path]:
    """Audio files to read, and the folder that their names in the output are relative to."""
    if source.is_dir():
        import soundfile

        known = {f".{name.lower()}" for name in soundfile.available_formats()} | {".opus"}
        paths = sorted(path for path in source.rglob("*") if path.suffix.lower() in known and path.is_file())
        if not paths:
            raise InputError(f"{source} holds no audio files")
        return paths, source
    if not source.exists():
        raise InputError(f"{source} does not exist; give an audio file, a folder or a list of paths")
    if source.suffix.lower() not in LIST_SUFFIXES:
        return [source], source.parent
    try:
        lines = [line.strip() for line in source.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError:
        raise InputError(f"{source} is no list of paths: it is not UTF-8 text") from None
    listed = [Path(line) for line in lines if line]
    if not listed:
        raise InputError(f"{source} lists no paths; write one audio file per line")
    absolute = [path.absolute() for path in listed]
    common = Path(*_common(absolute))
    return absolute, common


def _common(paths: list[Path]) -> Iterator[str]:
    """Leading parts that the folders of all paths share."""
    for parts in zip(*(path.parent.parts for path in paths)):
        if len(set(parts)) != 1:
            return
        yield parts[0]


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
        raise InputError(f"--layers {text} was asked for; give all, last, 0,9,12 or weighted:FILE") from None


def _weights(path: Path, count: int) -> Tensor:
    try:
        weights = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as a JSON list of weights: {error}") from None
    if not isinstance(weights, list) or len(weights) != count or not all(type(w) in (int, float) for w in weights):
        raise InputError(f"{path} must hold a JSON list of {count} numbers, one per hidden state of the model")
    return torch.tensor(weights, dtype=torch.float32)


def _write(target: Path, item: Extraction, weights: Tensor | None, form: str) -> int:
    """Write the features of one utterance; returns its frames."""
    states = {f"hidden_states.{layer}": state for layer, state in zip(item.layers, item.hidden_states)}
    if weights is not None:
        summed = torch.stack([w * state.float() for w, state in zip(weights, item.hidden_states)]).sum(0)
        states = {"hidden_states.weighted": summed}
    with _native.replacing(target) as file:
        if form == "npy":
            import numpy as np

            np.save(file, torch.stack(list(states.values())).float().numpy())
        else:
            from safetensors.torch import save

            file.write(save(states))
    return next(iter(states.values())).shape[0]


if __name__ == "__main__":
    sys.exit(main())
