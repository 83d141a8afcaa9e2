"""Recorded values are those that were committed: none missing, none altered, none beside."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.golden import manifest

LIMIT_BYTES = 10_000_000


def test_recorded_files_are_those_of_the_manifest() -> None:
    assert not manifest.differences(), (
        "recorded values are not those of tests/golden/manifest.json; where data were made again on purpose, "
        "run python tests/golden/manifest.py and commit both"
    )


def test_recorded_files_are_small() -> None:
    folder = manifest.ROOT / "tests" / "golden"
    sizes = [path.stat().st_size for kind in ("npz", "json") for path in folder.rglob(f"*.{kind}")]
    assert sum(sizes) < LIMIT_BYTES


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A root with every recorded file and the manifest."""
    for name in (manifest.MANIFEST, *json.loads((manifest.ROOT / manifest.MANIFEST).read_text())):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(manifest.ROOT / name, tmp_path / name)
    assert not manifest.differences(tmp_path)
    return tmp_path


@pytest.mark.parametrize("folder", ["tests/golden/data", "tests/golden/full_size", "tests/golden/spectral", "examples"])
def test_what_is_missing_altered_or_not_listed_is_found(copied: Path, folder: str) -> None:
    victim = next(name for name in manifest.hashes(copied) if name.startswith(folder) and name.endswith(".npz"))
    path = copied / victim
    whole = path.read_bytes()
    path.write_bytes(whole[:500] + bytes([whole[500] ^ 1]) + whole[501:])
    assert manifest.differences(copied) == [f"{victim} has changed"]
    path.unlink()
    assert manifest.differences(copied) == [f"{victim} is missing"]
    path.write_bytes(whole)
    beside = f"{folder}/another_expected.npz" if folder != "examples" else "tests/data/another_expected.npz"
    shutil.copyfile(path, copied / beside)
    assert manifest.differences(copied) == [f"{beside} is not listed"]
