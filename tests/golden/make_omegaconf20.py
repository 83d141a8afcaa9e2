"""Makes `tests/data/e1_omegaconf20.pt`: the XLSR-53 way, a DictConfig that omegaconf 2.0 pickled.

Runs in an environment with torch and omegaconf 2.0.6, which fairseq of today does not share (README.md), after
`make_fairseq.py checkpoints`: the configuration and what fairseq computes are in its `expected.json`.

    python tests/golden/make_omegaconf20.py [--out DIR]
"""

from __future__ import annotations

import argparse
import json
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import omegaconf
import torch
from generator import tensors
from omegaconf import OmegaConf

NAME = "e1_omegaconf20.pt"


def main(argv: Sequence[str] | None = None) -> None:
    """Command line of the maker."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(__file__).resolve().parents[1] / "data"
    parser.add_argument("--out", type=Path, default=default, help="folder with expected.json (default: tests/data)")
    out = parser.parse_args(argv).out
    assert omegaconf.__version__ == "2.0.6", omegaconf.__version__
    entry = json.loads((out / "expected.json").read_text(encoding="utf-8"))["files"][NAME]
    config = OmegaConf.create(entry["config"])
    OmegaConf.set_struct(config, True)
    weights = tensors(entry["state"], entry["seed"], entry["scale"])
    state = {
        "args": None,
        "cfg": config,
        "model": OrderedDict((name, torch.from_numpy(values)) for name, values in weights.items()),
        "criterion": None,
        "optimizer_history": [
            {"criterion_name": "Wav2vecCriterion", "optimizer_name": "FairseqAdam", "lr_scheduler_state": {"lr": 0.0}}
        ],
        "task_state": {},
        "extra_state": {"train_iterator": {"epoch": 2, "iterations_in_epoch": 0}, "val_loss": 6.25},
        "last_optimizer_state": None,
    }
    torch.save(state, out / NAME)
    print(f"{NAME}: {(out / NAME).stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
