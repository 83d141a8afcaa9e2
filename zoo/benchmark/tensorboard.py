"""Results as TensorBoard event files, for those who look at their runs there."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from zoo.benchmark import report
from zoo.errors import InputError

# Of a record, beside its values.
KEYS = {"step", "layer", "epoch", "fold", "partition", "learning_rate", "hidden_layers", "split"}


def events(paths: Sequence[Path], folder: Path) -> list[Path]:
    """Event files of finished results, below `folder`/upstream/task and variant.

    Args:
        paths: folders of results, or single files.
        folder: what TensorBoard is started with.

    Returns:
        A folder for each result.

    Raises:
        InputError: when there is no finished result, or such a folder has event files already.
    """
    written = []
    for run in report.read(paths).runs:
        target = Path(folder) / _safe(run.upstream) / _safe(f"{run.task.replace('/', '_')} {report.label(run)}")
        stream(run.data["curve"], target)
        written.append(target)
    return written


def stream(records: Iterable[Mapping[str, Any]], folder: Path) -> None:
    """Write the records of a curve as they come.

    Each learning rate and fold is a run of its own, so that TensorBoard lays them over each other. The loss of training
    is `train/loss`, what an evaluation says of a split `valid/accuracy` and so on; the step is the record's step, or
    its epoch or layer where there are no steps.

    Raises:
        InputError: when the tensorboard package is missing, or the folder has event files already: TensorBoard would
            join the two.
    """
    make = summary_writer()
    if next(folder.rglob("events.out.tfevents*"), None):
        raise InputError(f"{folder} has event files already; name another folder, or delete this one")
    with ExitStack() as stack:
        writers: dict[str, Any] = {}
        for record in records:
            run = _run(record)
            if run not in writers:
                writer: Any = make(str(folder / run))
                writers[run] = stack.enter_context(writer)
            step = record.get("step", record.get("epoch", record.get("layer")))
            for key, value in record.items():
                if key not in KEYS and report.is_number(value) and report.is_number(step) and math.isfinite(step):
                    writers[run].add_scalar(f"{record.get('split') or 'train'}/{key}", float(value), int(step))


def summary_writer() -> Any:
    """The class that writes event files.

    Raises:
        InputError: when the tensorboard package is missing.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise InputError(
            "event files were asked for, which need tensorboard: pip install tensorboard, or the zoo's extra "
            "'benchmark'"
        ) from None
    return SummaryWriter


def _run(record: Mapping[str, Any]) -> str:
    """Such as "lr=0.001,fold=2"; "all" without either."""
    names = {"lr": report.number(record.get("learning_rate"), None), "fold": record.get("fold")}
    names |= {key: record.get(key) for key in ("partition", "hidden_layers")}
    names |= {key: value for key, value in record.items() if key not in KEYS and isinstance(value, str)}
    return _safe(",".join(f"{key}={value}" for key, value in names.items() if value not in (None, ""))) or "all"


def _safe(name: str) -> str:
    """A name of a folder that stays below its parent."""
    return "".join(c if c.isalnum() or c in "-_.,=+" else "_" for c in name).lstrip(".")[:120]
