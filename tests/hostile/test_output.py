"""What is written: whole or not at all, the same bytes every time, and finite unless asked otherwise."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import zoo
import zoo.convert
from tests.trees import read
from zoo.errors import CheckpointError

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data"
GENUINE = DATA / "e3_resolved.pt"
NORM = "encoder.layer_norm.weight"


def python(script: str, *arguments: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
    )


# Kills


# When it ends: the nth time that a tensor is read, before and after the file is given its name.
MOMENTS = ("1", *(pytest.param(n, marks=pytest.mark.slow) for n in ("19", "37")), "before", "after")
END_AT = """
import os, signal, sys
import zoo.convert
from zoo.converters._unpickle import LazyTensor

signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell ignores in what it starts in the background
source, moment, signal_name, *more = sys.argv[1:]
pieces, replace, loads = LazyTensor.pieces, os.replace, 0

def end():
    os.kill(os.getpid(), signal.Signals[signal_name])

def counted(tensor):
    global loads
    loads += 1
    if str(loads) == moment:
        end()
    return pieces(tensor)

def replaced(old, new):
    if moment == "before":
        end()
    replace(old, new)
    if moment == "after":
        end()

LazyTensor.pieces, os.replace = counted, replaced
sys.exit(zoo.convert.main([source, "-o", "out.safetensors", *more]))
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    output = tmp_path_factory.mktemp("whole") / "out.safetensors"
    assert zoo.convert.main([str(GENUINE), "-o", str(output)]) == 0
    return output.read_bytes()


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_kill_leaves_the_output_whole_or_as_it_was(moment: str, tmp_path: Path, whole: bytes) -> None:
    old = moment in ("19", "before")  # whether there was a file of that name
    output = tmp_path / "out.safetensors"
    if old:
        output.write_bytes(b"old")
    done = python(END_AT, GENUINE, moment, "SIGKILL", *(["--force"] if old else []), cwd=tmp_path)
    assert done.returncode == -9, done.stderr
    left = {path.name for path in tmp_path.iterdir()}
    if moment == "after":
        assert left == {"out.safetensors"} and output.read_bytes() == whole
        return
    assert (output.read_bytes() if old else output.exists()) == (b"old" if old else False)
    (temporary,) = left - {"out.safetensors"}
    assert re.fullmatch(r"\.zoo-\w+", temporary)
    assert zoo.convert.main([str(GENUINE), "-o", str(output), "--force"]) == 0
    assert output.read_bytes() == whole


def test_an_interruption_leaves_nothing(tmp_path: Path) -> None:
    done = python(END_AT, GENUINE, "10", "SIGINT", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "zoo.convert: interrupted\n")
    assert list(tmp_path.iterdir()) == []


# The same bytes

CONVERT = """
import sys
import zoo.convert
for source in sys.argv[1:]:
    assert zoo.convert.main([source]) == 0
"""


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    """In processes whose hashes of texts differ; a set in the configuration has no order of its own."""
    root = read(GENUINE)
    root["cfg"]["model"]["words"] = {f"word {i}" for i in range(50)}
    root["cfg"]["model"]["rate"] = math.inf
    torch.save(root, tmp_path / "set.pt")
    sources = [
        tmp_path / "set.pt",
        *(DATA / name for name in ("ctc_hubert.pt", "mms.pt", "e1_dictconfig.pt", "hf/ctc")),
    ]
    outputs: list[dict[str, bytes]] = []
    for seed in ("1", "2"):
        here = tmp_path / seed
        here.mkdir()
        done = python(CONVERT, *sources, cwd=here, PYTHONHASHSEED=seed)
        assert done.returncode == 0, done.stderr
        outputs.append({path.name: path.read_bytes() for path in sorted(here.iterdir())})
    assert len(outputs[0]) == len(sources)
    assert outputs[0] == outputs[1]
    config = zoo.load(tmp_path / "1" / "set.safetensors").provenance["config"]
    assert config["model"]["words"] == sorted(root["cfg"]["model"]["words"])
    json.dumps(config, allow_nan=False)


# Weights that are not finite


def saved(path: Path, change: Any) -> Path:
    root = read(GENUINE)
    change(root["model"])
    torch.save(root, path)
    return path


def convert(*arguments: object) -> int:
    return zoo.convert.main([str(argument) for argument in arguments])


def test_a_weight_that_is_not_finite_is_refused_unless_allowed(tmp_path: Path, capsys: Any) -> None:
    bad = saved(tmp_path / "bad.pt", lambda state: state[NORM][3:5].copy_(torch.tensor([math.nan, math.inf])))
    output = tmp_path / "out.safetensors"
    assert convert(bad, "-o", output) == 1
    assert capsys.readouterr().err == (
        f"zoo.convert: {bad} cannot be used: {NORM} holds values that are not finite in float32; if they are meant to "
        "be there, convert it with python -m zoo.convert --allow-nonfinite\n"
    )
    assert sorted(tmp_path.iterdir()) == [bad]
    with pytest.raises(CheckpointError, match=f"{NORM} holds values that are not finite.*--allow-nonfinite"):
        zoo.load(bad)
    assert convert(bad, "--inspect") == 0 == convert(bad, "--dry-run")
    assert convert(bad, "-o", output, "--allow-nonfinite") == 0
    kept = load_file(output)["encoder.layer_norm.weight"]
    assert kept[3].isnan() and kept[4].isinf() and kept[:3].isfinite().all()
    assert zoo.load(output).encoder.layer_norm.weight[4].isinf()


def test_a_head_that_is_not_finite_is_refused_where_it_is_read(tmp_path: Path, capsys: Any) -> None:
    bad = saved(tmp_path / "bad.pt", lambda state: state["final_proj.bias"].fill_(math.nan))
    assert convert(bad, "-o", tmp_path / "out.safetensors") == 1
    assert "final_proj.bias holds values that are not finite" in capsys.readouterr().err
    with pytest.raises(CheckpointError, match=r"final_proj\.bias holds"):
        zoo.load(bad, heads=True)
    assert zoo.load(bad).heads is None


def test_what_a_dtype_cannot_hold_is_refused(tmp_path: Path, capsys: Any) -> None:
    large = saved(tmp_path / "large.pt", lambda state: state[NORM].fill_(1e6))
    output = tmp_path / "out.safetensors"
    assert convert(large, "-o", output, "--dtype", "float16") == 1
    assert "holds numbers too large for torch.float16; choose another --dtype" in capsys.readouterr().err
    assert convert(large, "-o", output, "--dtype", "float16", "--allow-nonfinite") == 0
    assert convert(large, "-o", output, "--dtype", "bfloat16", "--force") == 0
    double = saved(tmp_path / "double.pt", lambda s: s.update({NORM: torch.full((16,), 1e300, dtype=torch.float64)}))
    assert convert(double, "-o", output, "--force") == 1
    assert "not finite in float32" in capsys.readouterr().err


def test_an_empty_tensor_has_parts_too(tmp_path: Path) -> None:
    """Heads may have any shape; this one is cut into three parts of no rows."""
    root = read(DATA / "data2vec2.pt")
    root["model"]["shared_decoder.attn.qkv.weight"] = torch.ones(0, 4)
    torch.save(root, tmp_path / "file.pt")
    assert convert(tmp_path / "file.pt", "-o", tmp_path / "out.safetensors") == 0
    assert load_file(tmp_path / "out.safetensors")["heads.shared_decoder.attn.qkv.weight[2]"].shape == (0, 4)


# The source


def test_the_package_has_no_way_to_run_what_it_reads() -> None:
    forbidden = re.compile(
        r"torch\.load\(|pickle\.loads?\(|Unpickler|(?<![\w.])(?<!def )(eval|exec)\(|yaml\.(unsafe_)?load|dill|joblib"
    )
    allowed = {  # the names that the one refuses, and what the other says of a file that it does not read
        "zoo/converters/_unpickle.py": {"dill", "joblib"},
        "zoo/_units.py": {"joblib"},
    }
    for path in sorted((ROOT / "zoo").rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        found = {match[0] for match in forbidden.finditer(path.read_text(encoding="utf-8"))}
        assert found <= allowed.get(name, set()), name
    assert forbidden.search("x = torch.load(path)") and forbidden.search("eval(text)")
    assert not forbidden.search("model.eval()") and not forbidden.search("def eval(self) -> Any:")
