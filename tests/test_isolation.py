"""The package stands alone: no reference toolkit is imported or even looked for; importing it is quiet and light."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CHECKPOINT = ROOT / "examples" / "hubert_tiny.pt"
RECORDINGS = sorted((ROOT / "examples" / "audio").glob("*.flac"))
# Every bundled checkpoint of every dialect.
DATA = ROOT / "tests" / "data"
OTHERS = sorted(str(path) for path in (*DATA.glob("*.pt"), *(p for p in (DATA / "hf").iterdir() if p.is_dir())))
TOOLKITS = ["fairseq", "s3prl", "transformers", "omegaconf", "hydra", "torchaudio", "espnet", "mteb", "xares"]

# Runs before each script: whoever asks for a toolkit gets an ImportError, and is written down.
GUARD = f"""
import importlib.abc, json, sys

asked_for = []

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {TOOLKITS!r}:
            asked_for.append(name)
            raise ImportError(f"{{name}} is blocked")

sys.meta_path.insert(0, Blocker())
"""
# Runs after it.
REPORT = """
with open(sys.argv[1], "w") as file:
    json.dump({"asked_for": asked_for, "modules": sorted(sys.modules), "facts": facts}, file)
"""

EVERYTHING = f"""
import torch, zoo, zoo.convert, zoo.__main__, zoo.compat.mteb, zoo.compat.xares

recordings = {[str(path) for path in RECORDINGS]!r}
facts = {{"convert": zoo.convert.main([{str(CHECKPOINT)!r}, "-o", sys.argv[2]])}}
model = zoo.load(sys.argv[2])
with torch.no_grad():
    out = model(torch.randn(2, 4000), torch.tensor([4000, 3000]))
facts["shapes"] = [list(state.shape) for state in out.hidden_states]
facts["layers"] = model.config.num_layers
extracted = list(zoo.extract(model, recordings, progress=False))
facts["errors"] = [item.error for item in extracted]
facts["frames"] = [len(item.hidden_states[0]) for item in extracted]
facts["others"] = {{}}
for path in {OTHERS!r}:
    other = zoo.load(path, heads=True)
    with torch.no_grad():
        facts["others"][path] = len(other(torch.randn(1, 2000)).hidden_states) - other.config.num_layers
facts["commands"] = [zoo.__main__.main(["list"]), zoo.__main__.main(["info", "hubert_base"])]
"""


def run(script: str, tmp_path: Path) -> tuple[dict, subprocess.CompletedProcess[str]]:
    """What a guarded script reported, and how its process ended."""
    report = tmp_path / "report.json"
    done = subprocess.run(
        [sys.executable, "-c", GUARD + script + REPORT, str(report), str(tmp_path / "hubert_tiny.safetensors")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(report.read_text()), done


def test_everything_runs_without_the_toolkits(tmp_path: Path) -> None:
    assert CHECKPOINT.exists() and RECORDINGS
    report, done = run(EVERYTHING, tmp_path)
    facts = report["facts"]
    assert facts["convert"] == 0
    assert len(facts["shapes"]) == facts["layers"] + 1 and len({tuple(shape) for shape in facts["shapes"]}) == 1
    assert facts["errors"] == [None] * len(RECORDINGS)
    assert all(frames > 0 for frames in facts["frames"])
    assert facts["others"] == dict.fromkeys(OTHERS, 1)
    assert facts["commands"] == [0, 0]
    assert "hubert_base" in done.stdout
    assert report["asked_for"] == []
    assert not set(TOOLKITS) & set(report["modules"])


@pytest.mark.parametrize("toolkit", TOOLKITS)
def test_the_guard_notices_a_toolkit(toolkit: str, tmp_path: Path) -> None:
    report, _ = run(f"facts = None\ntry:\n    import {toolkit}.models\nexcept ImportError:\n    pass\n", tmp_path)
    assert report["asked_for"] == [toolkit]


def test_import_is_quiet_and_light(tmp_path: Path) -> None:
    report, done = run("import torch\nfacts = sorted(sys.modules)\nimport zoo\n", tmp_path)
    assert (done.stdout, done.stderr) == ("", "")
    assert report["asked_for"] == []
    added = set(report["modules"]) - set(report["facts"])
    assert "zoo" in added and not any(name.startswith("zoo.compat") for name in added)
    assert not added & {"soundfile", "soxr", "requests", "tqdm"}, "imported when first needed, because they take time"
