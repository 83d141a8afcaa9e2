"""`python -m zoo.convert SOURCE`: a checkpoint of another toolkit to a file of plain tensors, without running it."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo import _cli, _native
from zoo.converters import Conversion, open_conversion
from zoo.converters._fields import read_dictionary
from zoo.errors import ConfigError, InputError, printable

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0: written (or shown); 1: refused, with one sentence on stderr; 2: usage.
    """
    parser = argparse.ArgumentParser(
        prog="python -m zoo.convert",
        description="Convert a checkpoint of another toolkit to a native file, without running anything it contains.",
    )
    parser.add_argument("source", type=Path, metavar="SOURCE", help="checkpoint file or Hugging Face folder")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="OUT", help="default: SOURCE's stem + .safetensors in the current folder"
    )
    parser.add_argument("--to", choices=("zoo",), default="zoo", help="dialect to write")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of floating-point tensors in OUT")
    parser.add_argument(
        "--dictionary",
        type=Path,
        metavar="DICT",
        help="fairseq dict.txt that says what a wav2vec-U model's outputs stand for, where SOURCE does not",
    )
    parser.add_argument("--allow-nonfinite", action="store_true", help="accept weights that hold NaN or infinity")
    parser.add_argument("--force", action="store_true", help="replace OUT if it exists")
    parser.add_argument("--dry-run", action="store_true", help="show where every tensor goes and write nothing")
    parser.add_argument("--inspect", action="store_true", help="show what SOURCE is, without loading tensors")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return _cli.run(parser, argv, _run)


def _run(args: argparse.Namespace) -> int:
    if args.source.is_file() and _native.is_safetensors(args.source):
        _native.NativeFile(args.source)
        raise InputError(f"{args.source} is a native file already; give it to zoo.load as it is")
    with open_conversion(args.source) as conversion:
        conversion = dataclasses.replace(conversion, allow_nonfinite=args.allow_nonfinite)
        if args.dictionary is not None:
            conversion = _with_dictionary(conversion, args.dictionary)
        if args.inspect:
            _show(_inspection(conversion), args.json)
        elif args.dry_run:
            _show_keys(conversion, args.json)
        else:
            _show(_convert(conversion, args), args.json)
    return 0


def _convert(conversion: Conversion, args: argparse.Namespace) -> dict[str, Any]:
    source: Path = args.source
    output: Path = args.output or Path((source.name if source.is_dir() else source.stem) + ".safetensors")
    if output.is_dir():
        raise InputError(f"{output} is a folder; give the name of a file with -o")
    if output.exists() and output.samefile(source):
        raise InputError(f"{output} is the source itself; choose another name with -o")
    if output.exists() and not args.force:
        raise InputError(f"{output} exists already; choose another name with -o or replace it with --force")
    if not output.parent.is_dir():
        raise InputError(f"{output} cannot be written: the folder {output.parent} does not exist")
    write(conversion, output, DTYPES[args.dtype])
    return {
        "output": str(output),
        **_summary(conversion),
        "dropped": conversion.assignment.dropped,
    }


def write(conversion: Conversion, output: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write a native file; floating-point tensors are stored as `dtype`, one at a time in memory."""
    sizes = conversion.sizes()
    full = dict.fromkeys(conversion.family.generated, torch.float32)
    tensors = {
        name: (full.get(name, dtype) if old.is_floating_point else old, shape) for name, (old, shape) in sizes.items()
    }
    config = conversion.reading.config.to_dict()

    def load(name: str) -> Tensor:
        full = conversion.load(name)
        tensor = full.to(tensors[name][0])
        if tensor.dtype != full.dtype and not (conversion.allow_nonfinite or tensor.isfinite().all()):
            raise InputError(
                f"{output} cannot be written: {name} holds numbers too large for {tensor.dtype}; choose another --dtype"
            )
        return tensor

    _native.write(output, tensors, load, config, conversion.provenance())


def _with_dictionary(conversion: Conversion, path: Path) -> Conversion:
    """The conversion with the symbols of a fairseq dictionary in its configuration."""
    config = conversion.reading.config
    if not hasattr(config, "vocabulary"):
        raise InputError(
            f"--dictionary was given, but {conversion.source.path} holds a {config.family} model without one"
        )
    try:
        config = config.from_dict({**config.to_dict(), "symbols": read_dictionary(path)})
    except ConfigError as error:
        raise InputError(f"{path} does not fit {conversion.source.path}: {error}") from None
    return dataclasses.replace(conversion, reading=dataclasses.replace(conversion.reading, config=config))


def _summary(conversion: Conversion) -> dict[str, Any]:
    sizes = conversion.sizes()
    encoder = [math.prod(shape) for name, (_, shape) in sizes.items() if not name.startswith("heads.")]
    return {
        "dialect": conversion.dialect,
        "family": conversion.reading.config.family,
        "tensors": len(sizes),
        "parameters": sum(encoder),
        "heads": sorted({name.split(".")[1] for name in sizes if name.startswith("heads.")}),
        "made_up": sorted(conversion.assignment.made_up),
    }


def _inspection(conversion: Conversion) -> dict[str, Any]:
    source = conversion.source
    return {
        "source": str(source.path),
        "sha256": conversion.sha256(),
        "container": source.container,
        **_summary(conversion),
        "config": conversion.reading.config.to_dict(),
        "classes": list(source.globals),
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


def _show_keys(conversion: Conversion, as_json: bool) -> None:
    filled, dropped = conversion.assignment.filled, conversion.assignment.dropped
    made_up = sorted(conversion.assignment.made_up)
    if as_json:
        pairs = [{"source": source, "target": target} for target, source in filled.items()]
        print(json.dumps({"tensors": pairs, "dropped": dropped, "made_up": made_up}, indent=1))
        return
    for target, source in filled.items():
        print(printable(f"{source} -> {target} {list(conversion.tensor(target).shape)}"))
    for source, reason in dropped.items():
        print(printable(f"{source} dropped: {reason}"))
    for target in made_up:
        print(f"{target} made up: zeros, the source has none")


if __name__ == "__main__":
    sys.exit(main())
