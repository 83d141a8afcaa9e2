"""`python -m zoo list` and `info`: names, and what is known about a model."""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import Any

from zoo import info, list_models
from zoo._cli import Commands
from zoo.errors import InputError


def add(commands: Commands) -> None:
    """Add the commands to the command line."""
    command = commands.add_parser("list", help="names of the models")
    command.add_argument("pattern", nargs="?", default="*", help='shell pattern, such as "*hubert*"')
    command.set_defaults(run=_list)

    command = commands.add_parser("info", help="what is known about a model")
    command.add_argument("name", help="name or alias of a model")
    command.set_defaults(run=_info)


def _list(args: argparse.Namespace) -> int:
    names = list_models(args.pattern)
    if args.json:
        print(json.dumps([_record(name) for name in names], indent=1))
    else:
        width = max(map(len, names), default=0)
        for name in names:
            record = info(name)
            dead = " (no link works any more)" if record.sources and record.sources[0].dead else ""
            print(
                f"{name:{width}s}  {record.family:18s} {record.parameters / 1e6:7.1f} M  {record.licence:15s}  "
                f"{record.data}{dead}"
            )
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
            print("sources:" + ("" if value else " -"))
            for source in value:
                print(f"  {source['dialect']}: {source['url']}")
                for key in ("dead", "language", "size", "sha256", "cited"):
                    if source[key]:
                        print(f"    {key}: {source[key]}")
        elif key != "config":
            print(f"{key}: {', '.join(value) or '-' if isinstance(value, (list, tuple)) else _text(value)}")
    return 0


def _text(value: Any) -> str:
    if value is None:
        return "not known"
    return ("yes" if value else "no") if isinstance(value, bool) else str(value) or "-"


def _record(name: str) -> dict[str, Any]:
    return dataclasses.asdict(info(name))
