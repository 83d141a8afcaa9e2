"""What the command lines share: how they end, and how they print text that may come from a hostile file."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import TypeAlias

from zoo.errors import ZooError, printable

MAX_SENTENCE = 1000
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # what `add_subparsers` gives


def run(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None, command: Callable[[argparse.Namespace], int]
) -> int:
    """Parse the arguments and run the command.

    Returns:
        What the command returns; 1 with one sentence on stderr when it is refused, 2 for wrong usage.
    """
    try:
        args = parser.parse_args(argv)
    except SystemExit as stop:
        return 2 if stop.code else 0
    name = " ".join(filter(None, (parser.prog.removeprefix("python -m "), getattr(args, "command", None))))
    try:
        status = command(args)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # whoever reads the output, such as head, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ZooError, OSError) as error:
        print(f"{name}: {_sentence(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 130


def device(text: str) -> str:
    """Type of an argument that names a device."""
    import torch

    try:
        torch.empty(0, device=text)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} cannot be used: {str(error).splitlines()[0]}") from None
    return text


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError):
        return _cut(printable(f"{error.filename} cannot be used: {error.strerror}"))
    return _cut(printable(error))


def _cut(text: str) -> str:
    """A sentence that anyone reads to its end: a file may have put a long text into it."""
    return text if len(text) <= MAX_SENTENCE else f"{text[: MAX_SENTENCE // 2]} ... {text[-MAX_SENTENCE // 2 :]}"
