"""`python -m zoo fetch`: put models into the cache, for machines without a network or before a long job."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from zoo import list_models
from zoo._cli import Commands
from zoo._registry import families, find
from zoo.errors import InputError, ZooError, printable


def add(commands: Commands) -> None:
    """Add the command to the command line."""
    command = commands.add_parser("fetch", help="put models into the cache")
    command.add_argument("names", nargs="*", metavar="NAME", help="registry names or hf:org/repo[@revision]")
    command.add_argument("--all", metavar="FAMILY", help="every model of a family, such as wavlm")
    command.add_argument("--from", dest="file", type=Path, metavar="FILE", help="take a checkpoint that you have")
    command.add_argument("--cache-dir", type=Path, metavar="DIR", help="the cache (default: see python -m zoo doctor)")
    command.add_argument("--refresh", action="store_true", help="fetch again what is there")
    command.set_defaults(run=_fetch)


def _fetch(args: argparse.Namespace) -> int:
    from zoo import _hub

    names = _names(args)
    options = _hub.Options(cache_dir=args.cache_dir, refresh=args.refresh)
    done: dict[str, str] = {}
    failed: dict[str, str] = {}
    for name in names:
        try:
            path = _hub.fetch(name, options) if args.file is None else _hub.take(name, args.file, options)
            done[name] = str(path)
            if not args.json:
                print(printable(f"{name}: {path}"), flush=True)
        except (ZooError, OSError) as error:
            failed[name] = printable(error)
            print(f"zoo fetch: {failed[name]}", file=sys.stderr)
    if args.json:
        print(json.dumps({"done": done, "failed": failed}, indent=1))
    return 1 if failed else 0


def _names(args: argparse.Namespace) -> list[str]:
    """What is to be fetched, each once."""
    names = list(args.names)
    if args.all is not None:
        if args.all not in families():
            raise InputError(f"there is no family {args.all!r}; there are {', '.join(sorted(families()))}")
        of_family = [name for name in list_models() if find(name)[0].name == args.all]
        names += [name for name in of_family if any(not source.dead for source in find(name)[1].sources)]
        if not names:
            raise InputError(f"no weights of the family {args.all} can be fetched")
    if not names:
        raise InputError("nothing was asked for; give names of `python -m zoo list`, or --all FAMILY")
    if args.file is not None and len(names) > 1:
        raise InputError(f"one file was given for {len(names)} models; give one name with --from")
    return list(dict.fromkeys(names))
