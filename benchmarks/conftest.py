"""What the benchmarks share: the peers that can be imported here, and their ratios in the report."""

from __future__ import annotations

from types import ModuleType

import pytest

try:
    from torchaudio.compliance import kaldi
except (ImportError, OSError, RuntimeError):  # the last two: a torchaudio that was built for another torch
    kaldi = None

RATIOS = pytest.StashKey[list[str]]()


@pytest.fixture
def torchaudio_kaldi() -> ModuleType | None:
    """torchaudio's Kaldi features, where they can be imported."""
    return kaldi


@pytest.fixture
def ratios(request: pytest.FixtureRequest) -> list[str]:
    """Lines for the end of the report."""
    return request.config.stash.setdefault(RATIOS, [])


def pytest_report_header() -> str:
    if kaldi is None:
        return "peers: torchaudio.compliance.kaldi cannot be imported, so nothing is compared with it"
    return "peers: torchaudio.compliance.kaldi"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if lines := config.stash.get(RATIOS, []):
        terminalreporter.section("ratios to peers, medians of rounds taken in turns")
        terminalreporter.write_line("\n".join(lines))
