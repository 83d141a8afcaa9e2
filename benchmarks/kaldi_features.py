"""Times `kaldi_fbank` on a padded batch against torchaudio's function, one utterance at a time.

Needs torchaudio, which the package does not; run it where torchaudio can be imported:

    python benchmarks/kaldi_features.py [--clips 32] [--seconds 10] [--threads 2] [--repeats 10]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from time import perf_counter

import torch
from torchaudio.compliance import kaldi

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from zoo.layers.spectral import kaldi_fbank


def main() -> None:
    """Prints the best time of each, taken in turns, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("clips", 32), ("seconds", 10), ("threads", 2), ("repeats", 10)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    clips = 0.1 * torch.randn(options.clips, options.seconds * 16000)
    theirs, ours = [], []
    with torch.no_grad():
        for _ in range(options.repeats):
            start = perf_counter()
            want = torch.stack([kaldi.fbank(clip[None], num_mel_bins=80) for clip in clips])
            theirs.append(perf_counter() - start)
            start = perf_counter()
            got = kaldi_fbank(clips, bands=80, size=400, hop=160, sample_rate=16000)
            ours.append(perf_counter() - start)
    print(f"largest difference {float((got - want).abs().max()):.1e}")
    print(f"torchaudio {min(theirs):.4f} s, zoo {min(ours):.4f} s, ratio {min(theirs) / min(ours):.2f}")


if __name__ == "__main__":
    main()
