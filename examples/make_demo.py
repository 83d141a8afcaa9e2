"""Makes the demo's checkpoint and what fairseq computes with it, in fairseq's own environment.

    python examples/make_demo.py [--out DIR]

`hubert_tiny.pt` is a HuBERT with generated weights that has been through fairseq's trainer for one update at learning
rate 0, and is pickled as fairseq pickled its checkpoints in 2021: the configuration a DictConfig, the task's state
with its Dictionary, the history and the Adam state of the optimiser. `expected.npz` holds, for each recording in
`audio/` and each hidden state k, an array `<file name>/<k>` (T, D) from the model that fairseq read back.

The environment is described in tests/golden/README.md; this script needs soundfile and soxr as well.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "golden"))

import make_fairseq as reference
import numpy as np
import soundfile
import soxr
import torch
from fairseq import checkpoint_utils
from generator import AUDIO
from omegaconf import OmegaConf

HERE = Path(__file__).resolve().parent
SAMPLE_RATE = 16000
SEED = 2021
MODEL = {**reference.HUBERT, "encoder_layers": 3}


def recording(path: Path) -> torch.Tensor:
    """Reads a recording as float32 at 16 kHz, as the demo does: integers over 32768, soxr at high quality."""
    signal, rate = soundfile.read(path, dtype="float32")
    if rate != SAMPLE_RATE:
        signal = soxr.resample(signal, rate, SAMPLE_RATE, quality="HQ")
    return torch.from_numpy(signal)


def make_checkpoint(path: Path) -> torch.nn.Module:
    """Writes the checkpoint and returns the model that fairseq reads from it."""
    config = reference.make_config(MODEL, reference.HUBERT_TASK)
    task, model = reference.build(config, SEED, "lively")
    trainer = reference.train(config, task, model, update=True)
    resolved = OmegaConf.create(OmegaConf.to_container(config, resolve=True, enum_to_str=True))
    OmegaConf.set_struct(resolved, True)
    checkpoint_utils.torch_persistent_save(reference.training_state(trainer, cfg=resolved), str(path))
    (loaded,), _ = checkpoint_utils.load_model_ensemble([str(path)])
    before, after = model.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    return loaded.eval()


def main(argv: Sequence[str] | None = None) -> None:
    """Command line of the maker."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE, help="output folder (default: examples)")
    out = parser.parse_args(argv).out
    out.mkdir(parents=True, exist_ok=True)
    reference.prepare()
    model = make_checkpoint(out / "hubert_tiny.pt")
    config = reference.make_config(MODEL, reference.HUBERT_TASK)
    precise = reference.in_double(reference.build(config, SEED, "lively")[1])
    expected = {}
    for path in sorted(AUDIO.iterdir()):
        source = recording(path)[None]
        with torch.no_grad():
            states = reference.run(model, source).states
            exact = reference.run(precise, source.double()).states
        expected |= {f"{path.name}/{k}": state[0].numpy() for k, state in enumerate(states)}
        noise = max(float((state - other).abs().max()) for state, other in zip(states, exact, strict=True))
        rms = [round(float(state.pow(2).mean().sqrt()), 2) for state in states]
        print(f"{path.name}: {states[0].shape[1]} frames, rms {rms}, float32 against float64 {noise:.1e}")
    assert all(np.isfinite(value).all() for value in expected.values())
    np.savez_compressed(out / "expected.npz", **expected)
    for name in ("hubert_tiny.pt", "expected.npz"):
        print(f"{name}: {(out / name).stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
