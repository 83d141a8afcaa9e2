"""`python -m zoo units fit`: k-means on the features of one layer, for `python -m zoo extract --units`."""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from zoo import Units, extract, load
from zoo._cli import Commands
from zoo._commands.extract import SOURCE, SOURCE_HELP, add_run_options, audio_files
from zoo._units import MAX_FRAMES
from zoo.errors import InputError, printable


def add(commands: Commands) -> None:
    """Add the command to the command line."""
    command = commands.add_parser("units", help="fit discrete units")
    command.add_argument("action", choices=("fit",), help="k-means on the features of one layer")
    command.add_argument("sources", type=Path, nargs="+", metavar=SOURCE, help=SOURCE_HELP)
    command.add_argument("-o", "--output", type=Path, required=True, metavar="NPZ", help="file to write")
    command.add_argument("--model", required=True, metavar="NAME|PATH", help="checkpoint file or name of a model")
    command.add_argument("--layer", type=int, required=True, metavar="N", help="index of the hidden state")
    command.add_argument(
        "--clusters", type=int, default=100, metavar="C", help="number of units (default: %(default)s)"
    )
    command.add_argument("--seed", type=int, default=0, metavar="N", help="of all that is drawn (default: %(default)s)")
    command.add_argument(
        "--share",
        type=float,
        default=1.0,
        metavar="F",
        help="share of the recordings to use, drawn at random (default: all)",
    )
    command.add_argument(
        "--max-frames",
        type=int,
        default=MAX_FRAMES,
        metavar="N",
        help="frames to cluster, drawn at random from all; each takes 4 bytes times the width (default: %(default)s)",
    )
    add_run_options(command)
    command.add_argument("--force", action="store_true", help="replace the file")
    command.set_defaults(run=_fit)


def _fit(args: argparse.Namespace) -> int:
    if not 0 < args.share <= 1:
        raise InputError(f"--share {args.share} was asked for; give more than 0, at most 1")
    paths = [path for source in args.sources for path, _ in audio_files(source)]
    chosen = random.Random(args.seed).sample(range(len(paths)), math.ceil(args.share * len(paths)))
    paths = [paths[i] for i in sorted(chosen)]
    if args.output.is_dir() or not args.output.parent.is_dir():
        raise InputError(f"{args.output} cannot be written; give the name of a file in a folder that exists with -o")
    if args.output.exists() and not args.force:
        raise InputError(f"{args.output} exists already; choose another name or give --force")
    model = load(args.model, padding=args.padding, device=args.device)
    (layer,) = model.layer_indices([args.layer])
    failed = 0

    def states() -> Iterator[Tensor]:
        nonlocal failed
        for item in extract(model, paths, layers=[layer], batch_seconds=args.batch_seconds):
            if item.error is None:
                yield item.hidden_states[0]
            else:
                failed += 1
                print(f"zoo units: {printable(item.error)}", file=sys.stderr)
        if sys.stderr.isatty():
            print(f"clustering into {args.clusters}", file=sys.stderr)

    units = Units.fit(
        states(),
        args.clusters,
        seed=args.seed,
        max_frames=args.max_frames,
        model=model,
        name=args.model,
        layer=layer,
    )
    units.save(args.output)
    facts = {"output": str(args.output), "clusters": len(units.centroids), "frames": units.frames}
    if args.json:
        print(json.dumps({**facts, "inertia": units.inertia, "done": len(paths) - failed, "failed": failed}))
    else:
        print(printable(f"{args.clusters} units of {units.frames} frames written to {args.output}"))
    return 1 if failed else 0
