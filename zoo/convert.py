"""`python -m zoo.convert SOURCE`: a checkpoint of another toolkit to a file of plain tensors, without running it."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from zoo import _cli, _native
from zoo.converters import Conversion, export, open_conversion
from zoo.converters._dialect import Checkpoint, Export
from zoo.converters._fields import read_dictionary
from zoo.converters._inspection import same_architecture, training_state
from zoo.converters._sink import write_folder, write_torch_file
from zoo.errors import CheckpointError, ConfigError, InputError, printable

DTYPES: dict[str | None, torch.dtype] = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
SUFFIXES = {  # of what is written, by what `--to` calls it
    "zoo": ".safetensors",
    "hf": ".hf",
    "torchaudio": ".torchaudio.pt",
    "fairseq": ".fairseq.pt",
    "s3prl": ".s3prl.pt",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0: written (or shown); 1: refused, with one sentence on stderr; 2: usage.
    """
    parser = argparse.ArgumentParser(
        prog="python -m zoo.convert",
        description="Convert a checkpoint of any toolkit to that of any other, without running anything it contains.",
    )
    parser.add_argument(
        "source", type=Path, metavar="SOURCE", help="checkpoint file, native file or Hugging Face folder"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="OUT",
        help="default: in the current folder, SOURCE's stem + "
        + ", ".join(f"{suffix} ({target})" for target, suffix in SUFFIXES.items()),
    )
    parser.add_argument(
        "--to", choices=[*SUFFIXES], default="zoo", help="layout of OUT (default: zoo, the native file)"
    )
    parser.add_argument(
        "--dtype", choices=[*DTYPES], help="of floating-point tensors in OUT; default: as they are stored"
    )
    parser.add_argument(
        "--dictionary",
        type=Path,
        metavar="DICT",
        help="fairseq dict.txt that says what a wav2vec-U model's outputs stand for, where SOURCE does not",
    )
    parser.add_argument(
        "--language", metavar="LANG", help="which one, of an MMS file with adapters of several languages"
    )
    parser.add_argument(
        "--preset",
        metavar="NAME",
        help="registry name whose configuration is SOURCE's, where SOURCE says nothing of its own or cannot",
    )
    parser.add_argument("--allow-nonfinite", action="store_true", help="accept weights that hold NaN or infinity")
    parser.add_argument("--force", action="store_true", help="replace OUT if it exists")
    parser.add_argument("--dry-run", action="store_true", help="show where every tensor goes and write nothing")
    parser.add_argument("--inspect", action="store_true", help="show what SOURCE is, without loading tensors")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return _cli.run(parser, argv, _run)


def _run(args: argparse.Namespace) -> int:
    with open_conversion(
        args.source, args.preset, language=args.language, allow_nonfinite=args.allow_nonfinite
    ) as conversion:
        if args.dictionary is not None:
            conversion = _with_dictionary(conversion, args.dictionary)
        checkpoint = conversion.checkpoint().cast(DTYPES.get(args.dtype), args.allow_nonfinite)
        if args.inspect:
            _show(_inspection(conversion, checkpoint), args.json)
            return 0
        if args.to == "zoo" == conversion.dialect:
            raise InputError(f"{args.source} is a native file already; give it to zoo.load as it is")
        exported = None if args.to == "zoo" else _export(checkpoint, args)
        if args.dry_run:
            _show_keys(conversion, exported, args.json)
        else:
            _show(_convert(conversion, checkpoint, exported, args), args.json)
    return 0


def _export(checkpoint: Checkpoint, args: argparse.Namespace) -> Export:
    """What another toolkit is to be given."""
    try:
        return export(checkpoint, args.to)
    except CheckpointError as error:
        raise CheckpointError(f"{args.source} cannot be written as {args.to}: {error}") from None


def _convert(
    conversion: Conversion, checkpoint: Checkpoint, exported: Export | None, args: argparse.Namespace
) -> dict[str, Any]:
    output = _output(args)
    if exported is None:
        config = checkpoint.config.to_dict()
        _native.write(output, checkpoint.tensors, config, checkpoint.provenance, conversion.digest_if_cheap())
    elif args.to == "hf":
        write_folder(output, exported.root)
    else:
        write_torch_file(output, exported.root)
    dropped = dict(conversion.assignment.dropped) | (dict(exported.dropped) if exported else {})
    made_up = sorted(conversion.assignment.made_up) + (sorted(exported.made_up) if exported else [])
    return {
        "output": str(output),
        "to": args.to,
        **_summary(conversion, checkpoint),
        "made_up": made_up,
        "dropped": dropped,
    }


def _output(args: argparse.Namespace) -> Path:
    """Where the result goes, if it may."""
    source: Path = args.source
    output: Path = args.output or Path((source.name if source.is_dir() else source.stem) + SUFFIXES[args.to])
    if output.is_dir() and args.to != "hf":
        raise InputError(f"{output} is a folder; give the name of a file with -o")
    if output.exists() and output.samefile(source):
        raise InputError(f"{output} is the source itself; choose another name with -o")
    if output.exists() and not args.force:
        raise InputError(f"{output} exists already; choose another name with -o or replace it with --force")
    if not output.parent.is_dir():
        raise InputError(f"{output} cannot be written: the folder {output.parent} does not exist")
    return output


def _with_dictionary(conversion: Conversion, path: Path) -> Conversion:
    """The conversion with the symbols of a fairseq dictionary in its configuration."""
    config = conversion.config
    if not hasattr(config, "vocabulary"):
        raise InputError(
            f"--dictionary was given, but {conversion.source.path} holds a {config.family} model without one"
        )
    try:
        config = config.from_dict({**config.to_dict(), "symbols": read_dictionary(path)})
    except ConfigError as error:
        raise InputError(f"{path} does not fit {conversion.source.path}: {error}") from None
    return dataclasses.replace(conversion, reading=dataclasses.replace(conversion.reading, config=config))


def _summary(conversion: Conversion, checkpoint: Checkpoint) -> dict[str, Any]:
    tensors = checkpoint.tensors
    encoder = [tensor.numel for name, tensor in tensors.items() if not name.startswith("heads.")]
    return {
        "dialect": conversion.dialect,
        "family": conversion.config.family,
        "tensors": len(tensors),
        "parameters": sum(encoder),
        "heads": sorted(checkpoint.heads()),
        "made_up": sorted(conversion.assignment.made_up),
        "unknown_config": list(conversion.unread),
    }


def _inspection(conversion: Conversion, checkpoint: Checkpoint) -> dict[str, Any]:
    source = conversion.source
    return {
        "source": str(source.path),
        "sha256": conversion.digest.result(),
        "container": source.container,
        **_summary(conversion, checkpoint),
        "architecture": same_architecture(conversion.config),
        "dtypes": conversion.dtypes(),
        "config": conversion.config.to_dict(),
        "classes": list(source.globals),
        "training_state": training_state(source.root),
    }


def _show(record: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(record, indent=1))
        return
    for key, value in record.items():
        if isinstance(value, dict):
            print(f"{key}:" + ("" if value else " -"))
            for name, item in value.items():
                print(printable(f"  {name}: {item}"))
        else:
            print(printable(f"{key}: {', '.join(map(str, value)) or '-' if isinstance(value, list) else value}"))


def _show_keys(conversion: Conversion, exported: Export | None, as_json: bool) -> None:
    filled, dropped = conversion.assignment.filled, dict(conversion.assignment.dropped)
    made_up = {
        name: "it follows from the configuration"
        if name in conversion.family.generated
        else "zeros, the source has none"
        for name in sorted(conversion.assignment.made_up)
    }
    written: Mapping[str, str] = {}
    if exported is not None:
        written, dropped, made_up = exported.written, dropped | {**exported.dropped}, made_up | {**exported.made_up}
    if as_json:
        tensors = [
            {"source": key, "zoo": name, "target": written.get(name, None if exported else name)}
            for name, key in filled.items()
        ]
        print(json.dumps({"tensors": tensors, "dropped": dropped, "made_up": made_up}, indent=1))
        return
    for name, key in filled.items():
        target = f" -> {written[name]}" if name in written else ""
        print(printable(f"{key} -> {name}{target} {list(conversion.reading.tensors[key].shape)}"))
    for key, reason in dropped.items():
        print(printable(f"{key} dropped: {reason}"))
    for name, reason in made_up.items():
        print(printable(f"{name} made up: {reason}"))


if __name__ == "__main__":
    sys.exit(main())
