"""`python -m zoo`. Results go to stdout, progress and messages to stderr."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from zoo import __version__, _cli
from zoo._commands import doctor, extract, fetch, models, units, verify

COMMANDS = (models, fetch, extract, units, verify, doctor)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0: done; 1: refused or failed, with one sentence on stderr; 2: usage.
    """
    parser = argparse.ArgumentParser(prog="python -m zoo", description="Self-supervised speech models.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in COMMANDS:
        module.add(commands)
    for command in commands.choices.values():
        command.add_argument("--json", action="store_true", help="print the result as JSON")
    return _cli.run(parser, argv, lambda args: args.run(args))


if __name__ == "__main__":
    sys.exit(main())
