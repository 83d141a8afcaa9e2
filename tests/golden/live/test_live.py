"""Whatever is drawn, the zoo gives what the toolkit gives; only collected with `--live`."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.golden.live.examples import DRAWN, Example
from tests.golden.live.toolkits import toolkits

SHOWN = 12  # stages that differ


@pytest.mark.filterwarnings("ignore")  # those of the toolkits
@pytest.mark.parametrize(("name", "family"), [(n, family) for n, found in toolkits().items() for family in found.twins])
def test_twins_agree(
    name: str, family: str, pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory, live_outcome
) -> None:
    start: int = pytestconfig.getoption("live_seed")

    @seed(start)
    @settings(
        max_examples=pytestconfig.getoption("live_examples"),
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(DRAWN[name][family])
    def agree(example: Example) -> None:
        result = toolkits()[name].twins[family](example, tmp_path_factory.mktemp("live"))
        live_outcome(name, family, result.largest)
        if result.failures:
            found = [*result.failures[:SHOWN], f"{len(result.failures)} in all; --live-seed {start} draws the same"]
            raise AssertionError("\n".join(found))

    agree()
