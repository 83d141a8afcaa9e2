"""`python -m zoo.benchmark`. Results go to stdout; the plan, progress and messages to stderr."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from zoo.benchmark import _distributed, _files, _layout, _task, report
from zoo.benchmark._features import AUTOCAST
from zoo.benchmark._run import STORE_GB, Options, Run, stem
from zoo.errors import InputError, ZooError, printable

HOOKS = ("corpus", "downstream", "sampler", "optimizer", "scheduler")
TASK_HELP = "such as superb/ks, hear/esc50, superb/all, hear/all or all"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0: all finished; 1: any failed, with one sentence on stderr; 2: usage.
    """
    parser = argparse.ArgumentParser(
        prog="python -m zoo.benchmark", description="SUPERB and HEAR on any model of the zoo."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_list(commands)
    _add_run(commands)
    _add_check_data(commands)
    _add_miniature(commands)
    _add_report(commands)
    for command in commands.choices.values():
        command.add_argument("--json", action="store_true", help="print the result as JSON")
    try:
        args = parser.parse_args(argv)
    except SystemExit as stop:
        return 2 if stop.code else 0
    try:
        status: int = args.run(args)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ZooError, OSError) as error:
        _complain(args.command, error)
        return 1
    except KeyboardInterrupt:
        how = "goes on from the last checkpoint" if args.command == "run" else "begins again"
        _complain(args.command, f"interrupted; the same command {how}")
        return 130


def _complain(command: str, error: object) -> None:
    if isinstance(error, OSError):
        error = f"{error.filename} cannot be used: {error.strerror}"
    print(f"zoo.benchmark {command}: {printable(error)}", file=sys.stderr)


def _add_list(commands: Any) -> None:
    command = commands.add_parser("list", help="the tasks, their metrics and recipes")
    command.set_defaults(run=_list)


def _list(args: argparse.Namespace) -> int:
    rows = [
        {"task": t.name, "title": t.title, "metric": t.metric, "recipes": list(t.recipes), "corpus": t.layout.source}
        for t in _task.tasks().values()
    ]
    if args.json:
        print(json.dumps(rows))
        return 0
    for row in rows:
        print(f"{row['task']:42} {row['title']:32} {row['metric']:21} recipes: {', '.join(row['recipes'])}")
    return 0


def _add_run(commands: Any) -> None:
    command = commands.add_parser("run", help="run tasks with an upstream")
    command.add_argument("task", metavar="TASK", help=TASK_HELP)
    command.add_argument("--upstream", required=True, metavar="NAME|PATH|module:callable", help="what gives features")
    command.add_argument("--upstream-options", metavar="JSON", help="keyword arguments of the upstream")
    command.add_argument("--data", type=Path, metavar="DIR", help="the corpora side by side, or the one corpus")
    command.add_argument("-o", "--output", type=Path, required=True, metavar="RESULTS", help="folder of the results")
    command.add_argument("--recipe", default="official", help="official (default), v0.4, miniature or zoo")
    command.add_argument("--device", help="such as cuda:0; under torchrun cuda is one GPU each (default: cpu)")
    rates = command.add_mutually_exclusive_group()
    rates.add_argument("--lr", type=float, metavar="X", help="learning rate (default: the recipe's)")
    rates.add_argument("--lr-grid", action="store_true", help="search the recipe's learning rates, side by side")
    command.add_argument("--limit", type=int, metavar="N", help="at most N items of each split")
    command.add_argument("--steps", type=int, metavar="N", help="at most N updates")
    command.add_argument("--seed", type=int, default=0, metavar="N", help="of everything random (default: 0)")
    command.add_argument(
        "--padding", choices=("exact", "reference"), default="exact", help="of batches, as in zoo.load (default: exact)"
    )
    command.add_argument(
        "--layers", type=_layers, metavar="I,J,...", help="hidden states to sum, or one (default: all; --layers=-1)"
    )
    command.add_argument("--normalize", action="store_true", help="layer norm of every hidden state before the sum")
    command.add_argument("--finetune", action="store_true", help="train the upstream too")
    command.add_argument("--precision", choices=tuple(AUTOCAST), default="fp32", help="of the upstream (default: fp32)")
    command.add_argument(
        "--store-gb",
        type=float,
        default=STORE_GB,
        metavar="GB",
        help="budget of stored features (default: %(default)s)",
    )
    for hook in HOOKS:
        command.add_argument(f"--{hook}", metavar="module:name", help=f"{hook} hook")
        command.add_argument(f"--{hook}-options", metavar="JSON", help=f"keyword arguments of the {hook}")
    command.add_argument("--objective-options", metavar="JSON", help="such as the language model of superb/asr")
    command.add_argument("--tensorboard", action="store_true", help="write TensorBoard event files too")
    command.add_argument("--force", action="store_true", help="replace the results of another run")
    command.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    chosen = _task.select(args.task, args.data)
    given = {field.name: getattr(args, field.name) for field in fields(Options) if hasattr(args, field.name)}
    failed, results = 0, []
    with _distributed.group(args.device) as place:
        options = Options(**given | {"device": place})
        for task in chosen:
            try:
                result = Run(task, args.upstream, args.data, args.output, options, _log).run()
            except ZooError as error:
                if len(chosen) == 1:
                    raise
                failed += 1
                _complain(f"run {task.name}", error)
                continue
            results.append(result)
            if not args.json and not _distributed.rank():
                value, name = result.value, result.primary["name"]
                path = args.output / f"{stem(task)}.json"
                print(f"{task.name}: {name} {value:.4f} (chance {result.chance:.4f}), {path}")
    if args.json and not _distributed.rank():
        print(json.dumps(_files.plain([result.to_dict() for result in results])))
    return 1 if failed else 0


def _log(line: str) -> None:
    print(printable(line), file=sys.stderr)


def _layers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of layers such as 0,9,12") from None


def _add_check_data(commands: Any) -> None:
    command = commands.add_parser("check-data", help="what a corpus folder lacks, and how to get it")
    command.add_argument("task", metavar="TASK", help=TASK_HELP)
    command.add_argument("--data", type=Path, required=True, metavar="DIR", help="the corpora, or the one corpus")
    command.set_defaults(run=_check_data)


def _check_data(args: argparse.Namespace) -> int:
    found = [_layout.check(task, args.data) for task in _task.select(args.task, args.data)]
    if args.json:
        print(json.dumps([asdict(one) for one in found]))
    else:
        for one in found:
            state = (
                "complete" if one.complete else "usable, but not the official release" if one.usable else "not usable"
            )
            print(printable(f"{one.task}: {one.root}: {state}"))
            for line in one.lines:
                print(printable(f"  {line}"))
    return 0 if all(one.usable for one in found) else 1


def _add_miniature(commands: Any) -> None:
    command = commands.add_parser("miniature", help="write a small corpus in the layout of the official one")
    command.add_argument("task", metavar="TASK", help=TASK_HELP)
    command.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="folder for the corpora")
    command.set_defaults(run=_miniature)


def _miniature(args: argparse.Namespace) -> int:
    if args.output.exists() and not args.output.is_dir():
        raise InputError(f"{args.output} is a file; give a folder with -o")
    made = {task.name: str(_layout.miniature(task, args.output)) for task in _task.select(args.task)}
    print(json.dumps(made) if args.json else "\n".join(f"{name}: {path}" for name, path in made.items()))
    return 0


def _add_report(commands: Any) -> None:
    command = commands.add_parser("report", help="results in one table, beside the published scores")
    command.add_argument("results", type=Path, nargs="+", metavar="RESULTS", help="folders of results, or result files")
    command.add_argument("-o", "--output", type=Path, metavar="DIR", help="write report.md and report.html there")
    command.set_defaults(run=_report)


def _report(args: argparse.Namespace) -> int:
    found = report.read(args.results)
    written = [] if args.output is None else report.write(args.results, args.output)
    if args.json:
        runs = [dict(run.data) for run in found.runs]
        print(json.dumps({"results": runs, "remarks": found.remarks, "written": [str(path) for path in written]}))
        return 0
    print(report.table(found))
    for path in written:
        _log(f"written: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
