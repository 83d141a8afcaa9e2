"""The zoo gives what the reference implementations gave: every stage, alone and batched, forward and backward."""

from __future__ import annotations

from pathlib import Path

import pytest

import zoo
from tests.golden.compare import Case, case_names, compare


@pytest.mark.parametrize("name", case_names())
def test_case(name: str, tmp_path: Path, record_differences) -> None:
    case = Case.read(name)
    checkpoint = case.checkpoint(tmp_path)
    result = compare(case, zoo.load(checkpoint), case.names(checkpoint))
    record_differences(case.facts["family"], result.largest)
    assert not result.failures, "\n".join(result.failures)


def test_every_family_is_covered() -> None:
    cases = [Case.read(name).facts for name in case_names()]
    covered = {(c["family"], c["config"]["model"]["layer_norm_first"], c["scale"]) for c in cases}
    families = {family for family, _, _ in covered}
    assert families == set(zoo._registry.families())
    assert covered == {(f, first, scale) for f in families for first in (True, False) for scale in ("usual", "lively")}
