"""MTEB's and X-ARES's own checks, and a small evaluation by each, of models behind zoo.compat; nothing is fetched.

Runs in an environment that has both, the zoo's requirements, and FFmpeg, without which neither reads audio:

    pip install mteb==2.26.24 xares==0.1.3 torchcodec soundfile soxr safetensors
    PYTHONPATH=. python scripts/live_audio_benchmarks.py

Both tell tones from noise by the tiny HuBERT of examples, whose scores are only printed, and by Kaldi's features,
which must be right nine times in ten except by X-ARES's nearest neighbours. MTEB's two tasks have the descriptions of
ESC-50's in MAEB. X-ARES's is a folder of shards as it downloads them. Clips are of three rates, and one in three is
stereo; for MTEB they are of many lengths, for X-ARES, which fills up a batch with zeros that count as audio, of one.
"""

from __future__ import annotations

import io
import json
import os
import sys
import tarfile
import tempfile
from pathlib import Path

import mteb
import numpy as np
import soundfile
import soxr
import torch
from datasets import Audio, Dataset, DatasetDict, Features, Value
from mteb._create_dataloaders import create_dataloader
from mteb.models import CrossEncoderProtocol, EncoderProtocol, SearchProtocol
from mteb.tasks.classification.zxx.esc50 import ESC50Classification
from mteb.tasks.pair_classification.zxx.esc50 import ESC50PairClassification
from xares.audio_encoder_checker import check_audio_encoder
from xares.common import XaresSettings
from xares.task import TaskConfig, XaresTask
from xares.utils import attr_from_py_path

import zoo
from zoo.compat import xares
from zoo.compat.mteb import Encoder

TINY = Path(__file__).resolve().parent.parent / "examples" / "hubert_tiny.pt"
RATES = (16_000, 22_050, 44_100)
MODELS = {
    "Tiny": {"name": str(TINY), "layer": "all", "combine": "mean"},
    "Fbank": {"name": "fbank_no_cmvn"},
}
FILE = """from zoo.compat import xares

class {kind}Encoder(xares.Encoder):
    options = {options!r}
"""


def clip(i: int, seconds: float | None = None) -> tuple[np.ndarray, int]:
    """(S,) or (S, 2) and its rate: a tone for an even number, noise for an odd one."""
    draw = np.random.default_rng(i)
    rate = RATES[i // 2 % len(RATES)]
    time = np.arange(int(rate * (seconds or draw.uniform(0.3, 2.0)))) / rate
    wave = draw.normal(size=len(time)) if i % 2 else np.sin(2 * np.pi * draw.uniform(200, 2000) * time)
    wave *= 0.1
    return (np.stack([wave, 0.5 * wave], 1) if i % 3 == 0 else wave), rate


def wav(i: int, seconds: float | None = None) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, *clip(i, seconds), format="WAV", subtype="FLOAT")
    return file.getvalue()


class Tones(ESC50Classification):
    """ESC-50's task of MAEB, on other clips."""

    def load_data(self, num_proc: int | None = None, **kwargs: object) -> None:
        features = Features({"audio": Audio(), "target": Value("int64")})
        rows = {"audio": [{"bytes": wav(i), "path": None} for i in range(60)], "target": [i % 2 for i in range(60)]}
        self.dataset = DatasetDict({"train": Dataset.from_dict(rows, features=features)})
        self.data_loaded = True


class Pairs(ESC50PairClassification):
    """The same of its pairs."""

    def load_data(self, num_proc: int | None = None, **kwargs: object) -> None:
        features = Features({"audio1": Audio(), "audio2": Audio(), "label": Value("int64")})
        first, second = range(40), [100 + i // 2 for i in range(40)]
        rows = {
            "audio1": [{"bytes": wav(i), "path": None} for i in first],
            "audio2": [{"bytes": wav(i), "path": None} for i in second],
            "label": [int(a % 2 == b % 2) for a, b in zip(first, second)],
        }
        self.dataset = DatasetDict({"test": Dataset.from_dict(rows, features=features)})
        self.data_loaded = True


def report(kind: str, what: str, score: float) -> None:
    print(f"{kind}, {what}: {score:.3f}")
    assert score > 0.9 or kind == "Tiny" or "kNN" in what


def alone(i: int) -> torch.Tensor:
    """(D,) of clip i, by `zoo.load` and nothing else of the zoo."""
    wave, rate = clip(i)
    wave = torch.from_numpy(wave.mean(1) if wave.ndim == 2 else wave).float()
    wave = torch.from_numpy(soxr.resample(wave.numpy(), rate, 16_000, quality="HQ"))
    return torch.stack(zoo.load(TINY)(wave[None]).hidden_states)[:, 0].mean((0, 1))


def with_mteb() -> None:
    for kind, options in MODELS.items():
        name, more = options["name"], {key: value for key, value in options.items() if key != "name"}
        encoder = Encoder(name, device="cpu", **more)
        assert isinstance(encoder, EncoderProtocol)
        assert not isinstance(encoder, (SearchProtocol, CrossEncoderProtocol))
        meta = encoder.mteb_model_meta
        print(f"{kind}: EncoderProtocol of mteb {mteb.__version__}; {meta.name} {meta.revision} {meta.experiment_name}")
        tones = Tones()
        tones.load_data()
        loader = create_dataloader(tones.dataset["train"], task_metadata=tones.metadata, batch_size=8)
        found = encoder.encode(loader, task_metadata=tones.metadata, hf_split="train", hf_subset="default")
        if kind == "Tiny":
            with torch.no_grad():
                expected = torch.stack([alone(i) for i in range(len(found))])
            print(f"{kind}: {(torch.from_numpy(found) - expected).abs().max():.1e} from each clip alone")
            torch.testing.assert_close(torch.from_numpy(found), expected, rtol=0, atol=1e-4)
        for task in (tones, Pairs()):
            (result,) = mteb.evaluate(encoder, task, cache=None, encode_kwargs={"batch_size": 8}).task_results
            report(kind, f"mteb {task.metadata.type} {task.metadata.main_score}", result.get_score())


def with_xares(folder: Path) -> None:
    env = folder / "env" / "tones"
    env.mkdir(parents=True)
    for k, split in enumerate(("train", "valid", "test")):
        with tarfile.open(env / f"{split}-00.tar", "w") as shard:
            for i in range(100 * k, 100 * k + 64):
                for name, content in ((f"c{i}.wav", wav(i, 1.0)), (f"c{i}.json", json.dumps({"kind": i % 2}).encode())):
                    header = tarfile.TarInfo(name)
                    header.size = len(content)
                    shard.addfile(header, io.BytesIO(content))
    (env / XaresSettings.audio_ready_filename).touch()
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    assert attr_from_py_path("zoo/compat/xares.py", endswith="Encoder") is xares.Encoder
    for kind, options in MODELS.items():
        Path(f"{kind.lower()}_encoder.py").write_text(FILE.format(kind=kind, options=options))
        encoder = attr_from_py_path(f"{kind.lower()}_encoder.py", endswith="Encoder")()
        assert check_audio_encoder(encoder)
        frames = encoder(torch.randn(1, 50_000)).shape[1]
        print(f"{kind}: xares' check is true; {frames} frames of {encoder.hop_size_in_ms:g} ms for 50000 samples")
        config = TaskConfig(
            name="tones", encoder=encoder, env_root=env.parent, private=True, output_dim=2, num_encoder_workers=0,
            label_processor=label, batch_size_encode=8, epochs=30,
        )  # fmt: skip
        task = XaresTask(config)
        task.make_encoded_tar()
        for way, (score, _) in (("MLP", task.run_mlp()), ("kNN", task.run_knn())):
            report(kind, f"xares {way} accuracy", score)


def label(sample: dict[str, int]) -> int:
    return sample["kind"]


def main() -> int:
    """Run everything."""
    print(f"torch {torch.__version__}, zoo {zoo.__version__}")
    with_mteb()
    with tempfile.TemporaryDirectory() as folder:
        with_xares(Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
