"""The main job in one run: a genuine fairseq checkpoint and recordings in, fairseq's own numbers out.

Converts `hubert_tiny.pt` (pickled by fairseq with its configuration and dictionary objects; nothing in it is run),
loads the result, extracts features from the recordings in `audio/`, and compares every hidden state with what fairseq
computed (`expected.npz`). Exit status 0 only if all of them agree.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

import zoo
from zoo import convert

HERE = Path(__file__).resolve().parent
CHECKPOINT, EXPECTED, AUDIO = HERE / "hubert_tiny.pt", HERE / "expected.npz", HERE / "audio"
TOLERANCE = 2e-5  # fairseq's own float32 results are within 7e-6 of float64 on these recordings


def main() -> int:
    """Run the demo; 0 if every hidden state is fairseq's."""
    with tempfile.TemporaryDirectory() as folder:
        native = Path(folder) / "hubert_tiny.safetensors"
        print(f"Converting {CHECKPOINT.name}, a checkpoint that fairseq pickled, without running what is in it:")
        if convert.main([str(CHECKPOINT), "-o", str(native)]) != 0:
            return 1
        model = zoo.load(native)
        file_bytes = native.stat().st_size

    config = model.config
    print(
        f"\nLoaded the {file_bytes / 1024:.0f} KiB native file: {config.family}, {config.num_layers} layers, width "
        f"{config.width}, {model.sample_rate} Hz, one frame every {model.hop_length} samples."
    )
    paths = sorted(path for path in AUDIO.iterdir() if path.suffix in (".flac", ".wav"))
    print(f"Extracting {len(paths)} recordings in batches, and comparing every hidden state with fairseq's:\n")
    print(f"{'file':24s} {'seconds':>8s} {'frames':>7s} {'states':>7s} {'largest difference':>19s}  verdict")
    failed = 0
    with np.load(EXPECTED) as expected:
        for item in zoo.extract(model, paths, progress=False):
            name = paths[item.index].name
            if item.error is not None:
                print(f"{name:24s} {item.error}")
                failed += 1
                continue
            wanted = [expected[f"{name}/{k}"] for k in item.layers]
            difference, good = compare([state.numpy() for state in item.hidden_states], wanted)
            failed += not good
            print(
                f"{name:24s} {item.seconds:8.2f} {len(wanted[0]):7d} {len(wanted):7d} {difference:19.1e}  "
                f"{'ok' if good else 'DIFFERENT'}"
            )
    source = model.provenance["sha256"][:12]
    verdict = "All agree" if not failed else f"{failed} of {len(paths)} do not agree"
    print(f"\n{verdict} within {TOLERANCE:g} (checkpoint sha256 {source}..., recorded values from fairseq 0.12.3).")
    return 1 if failed else 0


def compare(got: list[np.ndarray], wanted: list[np.ndarray]) -> tuple[float, bool]:
    """Largest difference over all hidden states, and whether it is within the tolerance."""
    if [g.shape for g in got] != [w.shape for w in wanted]:
        return float("inf"), False
    difference = max(float(np.abs(g - w).max()) for g, w in zip(got, wanted))
    return difference, difference <= TOLERANCE


if __name__ == "__main__":
    sys.exit(main())
