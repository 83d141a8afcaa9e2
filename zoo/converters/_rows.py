"""Key tables: rows from source keys to zoo keys, and the accounting that no key escapes.

A template is a key with placeholders: `{n}` and `{m}` stand for a number, `{rest}` for anything, the others for the
words in `PLACEHOLDERS`. A placeholder keeps its value from source to target, so a row can be read in both directions.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TypeVar

from zoo.errors import CheckpointError, cut

PLACEHOLDERS = {
    "n": r"\d{1,6}",
    "m": r"\d{1,6}",
    "later": r"[1-9]\d{0,5}",
    "half": "1|2",
    "uv": "u|v",
    "wb": "weight|bias",
    "bn": "weight|bias|running_mean|running_var|num_batches_tracked",
    "wn": "bias|weight|weight_g|weight_v",
    "qkvo": "q|k|v|out",
    "rest": ".+",
}
MAX_TENSORS = 10_000
MAX_NAME = 255
SHOWN = 4  # keys named in a message before it says how many more there are, shared out among its problems


@dataclass(frozen=True)
class Row:
    """One line of a key table: where the tensors of a source go."""

    source: str
    target: str


@dataclass(frozen=True)
class Drop:
    """Source keys that are left behind, and why."""

    source: str
    reason: str


Line = TypeVar("Line", Row, Drop)


@dataclass
class Assignment:
    """Which source key fills which target key.

    Attributes:
        filled: target key -> source key.
        dropped: source key that is left behind -> reason.
        made_up: target key that nothing fills and that may be made up -> shape.
    """

    filled: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    made_up: dict[str, tuple[int, ...]] = field(default_factory=dict)


@lru_cache(maxsize=4096)
def _pattern(template: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", template)
    return re.compile(
        "".join(re.escape(p) if i % 2 == 0 else f"(?P<{p}>{PLACEHOLDERS[p]})" for i, p in enumerate(parts))
    )


def _index(lines: Iterable[Line]) -> dict[str, list[Line]]:
    """Lines of a table by the whole parts of a key that come before the first placeholder."""
    index: dict[str, list[Line]] = {}
    for line in lines:
        fixed = line.source.partition("{")[0]
        index.setdefault(fixed[: fixed.rfind(".") + 1], []).append(line)
    return index


def _matches(index: Mapping[str, list[Line]], key: str) -> Iterator[tuple[Line, re.Match[str]]]:
    """Lines that a key matches."""
    for start, lines in index.items():
        if key.startswith(start):
            for line in lines:
                if match := _pattern(line.source).fullmatch(key):
                    yield line, match


def assign(
    rows: Iterable[Row],
    drops: Iterable[Drop],
    shapes: Mapping[str, tuple[int, ...]],
    expected: Mapping[str, tuple[int, ...]],
    optional: Collection[str] = (),
) -> Assignment:
    """Match every source key with exactly one row or drop, and fill every expected key exactly once.

    Args:
        rows: where keys go; a target below `heads.` is free, any other must be expected.
        drops: what is left behind.
        shapes: source key -> shape.
        expected: target key -> shape the model has.
        optional: expected keys that may be made up when the source lacks them.

    Raises:
        CheckpointError: naming the keys, when anything is unmatched, matched twice, missing or of another shape.
    """
    if len(shapes) > MAX_TENSORS:
        raise CheckpointError(f"it holds {len(shapes)} tensors, where no model has more than {MAX_TENSORS}")
    if long := next((key for key in shapes if len(key) > MAX_NAME), None):
        raise CheckpointError(f"it holds a tensor whose name has {len(long)} characters: {cut(long)}")
    by_start, dropped = _index(rows), _index(drops)
    result = Assignment()
    unmatched: list[str] = []
    ambiguous: list[str] = []
    wrong: list[str] = []
    for key, shape in shapes.items():
        targets = [row.target.format(**match.groupdict()) for row, match in _matches(by_start, key)]
        reasons = [drop.reason for drop, _ in _matches(dropped, key)]
        if len(targets) + len(reasons) > 1 or (targets and targets[0] in result.filled):
            ambiguous.append(key)
        elif reasons:
            result.dropped[key] = reasons[0]
        elif not targets or not (targets[0] in expected or _is_head(targets[0])):
            unmatched.append(key)
        else:
            result.filled[targets[0]] = key
            if targets[0] in expected and shape != expected[targets[0]]:
                wrong.append(f"{key} {list(shape)} instead of {list(expected[targets[0]])}")
    missing = [key for key in expected if key not in result.filled]
    result.made_up = {key: expected[key] for key in missing if key in optional}
    missing = [key for key in missing if key not in optional]
    problems = {
        "tensors that the configuration has no place for": unmatched,
        "tensors that match more than one place": ambiguous,
        "parameters that nothing fills": missing,
        "shapes that differ from the configuration": wrong,
    }
    if found := [(what, keys) for what, keys in problems.items() if keys]:
        listed = (f"{what}: {_list(keys, -(-SHOWN // len(found)))}" for what, keys in found)
        raise CheckpointError("the tensors do not fit the configuration; " + "; ".join(listed))
    return result


def forward(rows: Iterable[Row], keys: Iterable[str]) -> dict[str, str]:
    """Read a key table forwards: source key -> the target key that the first row that matches gives it.

    A key that no row matches is left out.
    """
    return _through([(row.source, row.target) for row in rows], keys)


def invert(rows: Iterable[Row], names: Iterable[str]) -> dict[str, str]:
    """Read a key table backwards: target key -> the source key that the first row with such a target gives it.

    A name that no row has as its target is left out.
    """
    return _through([(row.target, row.source) for row in rows], names)


def _through(pairs: list[tuple[str, str]], names: Iterable[str]) -> dict[str, str]:
    found = dict[str, str]()
    for name in names:
        for pattern, template in pairs:
            if match := _pattern(pattern).fullmatch(name):
                found[name] = template.format(**match.groupdict())
                break
    return found


def _is_head(target: str) -> bool:
    return target.startswith("heads.") and "" not in target.split(".")


def _list(keys: list[str], most: int) -> str:
    more = f" and {len(keys) - most} more" if len(keys) > most else ""
    return ", ".join(cut(key) for key in keys[:most]) + more
