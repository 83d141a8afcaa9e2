"""Prints the largest difference of each stage by family at the end of a run: the table of docs/numerics.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

LARGEST = pytest.StashKey[dict[str, dict[str, float]]]()


@pytest.fixture
def record_differences(pytestconfig: pytest.Config) -> Callable[[str, Mapping[str, float]], None]:
    """Remember the largest differences of a family."""

    def record(family: str, largest: Mapping[str, float]) -> None:
        table = pytestconfig.stash.setdefault(LARGEST, {}).setdefault(family, {})
        for stage, value in largest.items():
            table[stage] = max(table.get(stage, 0.0), value)

    return record


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table."""
    table = config.stash.get(LARGEST, {})
    if not table:
        return
    stages = sorted({stage for row in table.values() for stage in row})
    terminalreporter.section("largest differences from the reference")
    terminalreporter.write_line(" " * 12 + "".join(f"{stage:>10s}" for stage in stages))
    for family, row in sorted(table.items()):
        terminalreporter.write_line(f"{family:12s}" + "".join(f"{row.get(s, float('nan')):10.1e}" for s in stages))
