"""Options of the live twins (README.md beside this file); without `--live` nothing of them is collected."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

OUTCOMES = pytest.StashKey[dict[tuple[str, str], list[Mapping[str, float]]]]()
# Column of the table, and the kinds of differences in it: forward in both precisions, and gradients in the exact one.
COLUMNS = {
    "forward, float32": ("single", "equal", "exact", "padded"),
    "forward, float64": ("single (64)", "equal (64)", "exact (64)", "padded (64)"),
    "gradients, float64": ("gradient (64)",),
}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("live", "comparisons with toolkits that can be imported here")
    group.addoption("--live", action="store_true", help="draw random tiny models and compare them with their toolkits")
    group.addoption("--live-examples", type=int, default=20, metavar="N", help="how many of each family and toolkit")
    group.addoption(
        "--live-seed",
        type=int,
        default=random.SystemRandom().randrange(1 << 32),
        metavar="N",
        help="draw the same again",
    )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    if collection_path.name != "test_live.py":
        return None
    return True if not (config.getoption("live") and any_toolkit()) else None


def any_toolkit() -> bool:
    """Whether there is anything to compare with; imports the toolkits."""
    from tests.golden.live.toolkits import toolkits

    return any(found.twins for found in toolkits().values())


def pytest_report_header(config: pytest.Config) -> list[str]:
    if not config.getoption("live"):
        return []
    from tests.golden.live.toolkits import header

    return [
        *header(),
        f"live: --live-examples {config.getoption('live_examples')}, --live-seed {config.getoption('live_seed')}",
    ]


@pytest.fixture
def live_outcome(pytestconfig: pytest.Config) -> Callable[[str, str, Mapping[str, float]], None]:
    """Remember the largest differences of an example."""
    outcomes = pytestconfig.stash.setdefault(OUTCOMES, {})
    return lambda toolkit, family, largest: outcomes.setdefault((family, toolkit), []).append(largest)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the largest differences of each family and toolkit as a Markdown table."""
    outcomes = config.stash.get(OUTCOMES, {})
    if not outcomes:
        return
    terminalreporter.section("live twins: largest differences")
    terminalreporter.write_line(f"| family | toolkit | examples | {' | '.join(COLUMNS)} |")
    terminalreporter.write_line("|---|---|---" + "|---" * len(COLUMNS) + "|")
    for (family, toolkit), found in sorted(outcomes.items()):
        worst = [
            f"{max(largest.get(kind, 0.0) for largest in found for kind in kinds):.0e}" for kinds in COLUMNS.values()
        ]
        terminalreporter.write_line(f"| {family} | {toolkit} | {len(found)} | {' | '.join(worst)} |")
