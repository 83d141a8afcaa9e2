"""Makes checkpoints in the layout to which s3prl converts fairseq's, with its own converters, and what it computes.

Runs in fairseq's environment with s3prl and torchaudio beside it (README.md beside this file), never in the project's:

    python tests/golden/make_s3prl_converted.py    # tests/data/converted_*.pt, s3prl_converted_expected.{json,npz}

Takes `--out DIR`. The sources are files of tests/data that fairseq wrote, whose facts stand beside them.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib
import io
import json
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import fairseq.examples.data2vec.models.data2vec_audio  # noqa: F401 (registers itself)
import make_s3prl  # noqa: F401 (it gives torchaudio the names that s3prl asks for)
import torch
from generator import waveform
from make_fairseq import HERE, prepare, versions
from recording import UTTERANCE, write

DATA = HERE.parent / "data"
# What is made -> its source, the facts of the source, s3prl's upstream.
FILES = {
    "converted_wav2vec2.pt": ("e0_namespace_legacy.pt", "expected.json", "wav2vec2"),
    "converted_conformer.pt": ("conformer_relative.pt", "conformer_expected.json", "wav2vec2"),
    "converted_hubert.pt": ("e3_resolved.pt", "expected.json", "hubert"),
    "converted_data2vec.pt": ("data2vec.pt", "data2vec_expected.json", "data2vec"),
}


def without_head(source: Path, work: Path) -> Path:
    """A copy without `final_proj`, with which s3prl's loader refuses a data2vec file."""
    content = torch.load(source)
    for name in [name for name in content["model"] if name.startswith("final_proj.")]:
        del content["model"][name]
    torch.save(content, work / source.name)
    return work / source.name


def make(out: Path, work: Path) -> None:
    documents: dict[str, Any] = {}
    arrays: dict[str, Any] = {}
    for name, (source, beside, upstream) in FILES.items():
        facts = json.loads((DATA / beside).read_text())["files"][source]
        path = DATA / source
        if upstream == "data2vec":
            path = without_head(path, work)
            facts["state"] = {key: entry for key, entry in facts["state"].items() if not key.startswith("final_proj.")}
        with contextlib.redirect_stdout(io.StringIO()):
            importlib.import_module(f"s3prl.upstream.{upstream}.convert").load_and_convert_fairseq_ckpt(
                path, out / name
            )
            expert = importlib.import_module(f"s3prl.upstream.{upstream}.expert").UpstreamExpert(out / name).eval()
        with torch.no_grad():
            states = expert([torch.from_numpy(waveform(UTTERANCE))])["hidden_states"]
        arrays[f"{name}/last"] = states[-1][0].numpy()
        kept = {key: facts[key] for key in ("family", "normalize", "seed", "scale", "state", "ema") if key in facts}
        documents[name] = {"about": f"{source} through s3prl's converter, read back by s3prl's own loader", **kept}
        print(f"{name}: {(out / name).stat().st_size / 1000:.0f} kB")
    document = {
        "reference": {**versions(), "distribution": "s3prl", "version": version("s3prl")},
        "script": "tests/golden/make_s3prl_converted.py",
        "date": datetime.date.today().isoformat(),
        "utterance": UTTERANCE,
        "files": documents,
    }
    write(out / "s3prl_converted_expected", document, arrays)


def main(argv: Sequence[str] | None = None) -> None:
    """Command line of the maker."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=DATA, help="output folder (default: its place in the repository)")
    arguments = parser.parse_args(argv)
    prepare()
    with tempfile.TemporaryDirectory() as work:
        make(arguments.out, Path(work))


if __name__ == "__main__":
    main()
