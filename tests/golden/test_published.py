"""Released weights give what the test suites of transformers and torchaudio say that they give.

`published/*.json` holds their figures, and where they stand; `published/README.md` says how they were made. The tests
marked `weights` fetch models and recordings into the cache, or find them there: `pytest tests/golden -m weights`. The
others hold the comparison itself against values of transformers that are recorded here.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

import zoo
from tests.golden.compare import Case
from zoo import _cache
from zoo._download import download
from zoo._hub import download_url
from zoo._repository import parse
from zoo.models._family import Model

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(__file__).parent / "published"
UNCONFIRMED = "published, not yet confirmed here"
SAMPLE_RATE = 16000
LIBRISPEECH = "https://www.openslr.org/resources/12/dev-clean.tar.gz"
LIBRISPEECH_SHA256 = (
    "76f87d090650617fca0cac8f88b9416e0ebf80350acb97b343a85fa903728ab3"  # torchaudio/datasets/librispeech.py
)
UTTERANCES = tuple(f"1272-141231-000{i}" for i in range(4))
ASSETS = "https://download.pytorch.org/torchaudio/test-assets/"
PROCESSOR = "https://huggingface.co/{}/resolve/main/preprocessor_config.json"
HF_EPS = 1e-7

Record = Mapping[str, Any]


def records(name: str) -> list[dict[str, Any]]:
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def mono(file: Any) -> Tensor:
    waveform, rate = soundfile.read(file, dtype="float32")
    assert rate == SAMPLE_RATE and waveform.ndim == 1
    return torch.from_numpy(waveform)


@lru_cache(maxsize=1)
def librispeech() -> dict[str, Tensor]:
    """The utterances that transformers' tests use, by their names."""
    path = _cache.place(_cache.root(), LIBRISPEECH)
    if _cache.offline() is None:
        download(LIBRISPEECH, path, sha256=LIBRISPEECH_SHA256)
    found: dict[str, Tensor] = {}
    with tarfile.open(download_url(LIBRISPEECH)) as archive:
        for member in archive:
            name = Path(member.name)
            if name.suffix == ".flac" and name.stem in UTTERANCES:
                found[name.stem] = mono(io.BytesIO(archive.extractfile(member).read()))
            if len(found) == len(UTTERANCES):
                break
    return found


def collapsed(logits: Tensor, blank: int) -> list[int]:
    """Best outputs of logits (T, V), repetitions merged, without blanks."""
    return [i for i in logits.argmax(-1).unique_consecutive().tolist() if i != blank]


@torch.no_grad()
def differences(record: Record, model: Model, waves: Sequence[Tensor], processor: Mapping[str, Any]) -> list[str]:
    """What differs from a record of transformers.

    Its processor pads with zeros and then normalises: over the true length where it returns an attention mask, over
    the padding too where it does not. The model may be given that mask or not.
    """
    returned = record["return_attention_mask"]
    if returned is None:
        returned = processor.get("return_attention_mask", False)
    given = record["attention_mask_given"]
    assert returned or not given, "a mask was given that the processor does not make"
    treatment = {"normalize": processor.get("do_normalize", True), "normalize_eps": HF_EPS, "attention_mask": given}
    model.config = dataclasses.replace(model.config, **treatment)
    model.padding = "reference"
    out = model(pad_sequence(list(waves), batch_first=True), [len(wave) for wave in waves] if returned else None)
    found = []
    if "transcripts" in record:
        symbols = model.config.symbols
        for i, (logits, want) in enumerate(zip(out.logits, record["transcripts"], strict=True)):
            text = record["join"].join(symbols[k] for k in collapsed(logits, symbols.index("<pad>")))
            text = text.replace("|", " ").strip()
            text = text.lower() if record["lower"] else text
            found += [] if text == want else [f"utterance {i}: {text!r} instead of {want!r}"]
    last = out.hidden_states[-1].numpy()
    for part in record.get("slices", ()):
        got = last[:, slice(*part["frames"]), slice(*part["channels"])]
        want = np.array(part["values"])
        if got.shape != want.shape or not np.allclose(got, want, rtol=part["rtol"], atol=part["atol"]):
            found.append(
                f"frames {part['frames']}, channels {part['channels']}: {got.tolist()} instead of {want.tolist()}"
            )
    if "sum" in record and not abs(last.sum(dtype=np.float64) - record["sum"]["value"]) < record["sum"]["atol"]:
        found.append(f"sum {last.sum(dtype=np.float64)} instead of {record['sum']['value']}")
    return found


@torch.no_grad()
def transcript(record: Record, model: Model, wave: Tensor) -> str:
    """As torchaudio's test makes it: some outputs left out, output 0 the blank, labels joined as they are."""
    logits = model(wave[None]).logits[0]
    kept = [i for i in range(logits.shape[1]) if i not in record["left_out"]]
    return "".join(f"-{record['labels']}"[i] for i in collapsed(logits[:, kept], 0))


@pytest.mark.weights
@pytest.mark.parametrize("record", records("transformers"), ids=lambda record: record["name"])
def test_transformers(record: Record) -> None:
    model = zoo.load(record["model"], heads=True)
    waves = librispeech()
    processor = json.loads(download_url(PROCESSOR.format(record["processor"])).read_text(encoding="utf-8"))
    failures = differences(record, model, [waves[name] for name in record["audio"]], processor)
    assert not failures, "\n".join(failures)


@pytest.mark.weights
@pytest.mark.parametrize("record", records("torchaudio"), ids=lambda record: record["name"])
def test_torchaudio(record: Record) -> None:
    model = zoo.load(record["model"], heads=True)
    assert transcript(record, model, mono(download_url(ASSETS + record["audio"]))) == record["transcript"]


# What follows runs everywhere.


@pytest.mark.parametrize("name", ["transformers", "torchaudio"])
def test_every_record_says_where_it_stands(name: str) -> None:
    found = records(name)
    assert len({record["name"] for record in found}) == len(found)
    for record in found:
        assert record["status"] in (UNCONFIRMED, "confirmed here")
        assert set(record["source"]) == {"repository", "file", "commit", "test"}
        assert re.fullmatch(r"[0-9a-f]{40}", record["source"]["commit"]) and record["source"]["file"].endswith(".py")


def test_records_of_transformers_can_be_run() -> None:
    for record in records("transformers"):
        parse(record["model"]), parse(f"hf:{record['processor']}")
        assert set(record["audio"]) <= set(UTTERANCES)
        for values in [record.get("transcripts"), *(part["values"] for part in record.get("slices", ()))]:
            assert values is None or len(values) == len(record["audio"])
        assert "transcripts" in record or "slices" in record
        if len(record["audio"]) > 1 and record["return_attention_mask"] is not None:
            assert record["return_attention_mask"] or not record["attention_mask_given"]


def test_records_of_torchaudio_can_be_run() -> None:
    for record in records("torchaudio"):
        zoo.info(record["model"])
        assert len(set(record["labels"])) == len(record["labels"]) and set(record["transcript"]) <= set(
            record["labels"]
        )


@pytest.mark.parametrize(
    ("case", "batch", "returned", "given"),
    [
        ("hf_wav2vec2_pre_norm_usual", "padded", True, True),
        ("hf_wavlm_pre_norm_lively", "padded", True, True),
        ("hf_unispeech_sat_post_norm_usual", "padded", True, False),
        ("hf_wav2vec2_post_norm_usual", "processor", False, False),
    ],
)
def test_transformers_batches_are_reproduced(
    case: str, batch: str, returned: bool, given: bool, tmp_path: Path
) -> None:
    """Against values of transformers for such batches, what it leaves in padded frames included."""
    golden = Case.read(case)
    model = zoo.load(golden.checkpoint(tmp_path))
    want = golden.arrays[f"{batch}/{model.num_layers}"]
    part = {"frames": [0, None], "channels": [0, 32], "values": want.tolist(), "rtol": 0, "atol": 1e-5}
    record = {"return_attention_mask": returned, "attention_mask_given": given, "slices": [part]}
    processor = golden.facts["preprocessor"]
    assert differences(record, model, golden.utterances(), processor) == []
    total = {"value": float(want.sum(dtype=np.float64)) + 0.1, "atol": 1e-3}
    assert differences({**record, "sum": total}, model, golden.utterances(), processor)[0].startswith("sum")
    if processor["do_normalize"]:
        assert differences(record, model, golden.utterances(), {**processor, "do_normalize": False})
    values = np.array(part["values"])
    values[1, -1, -1] += 1e-4
    record["slices"] = [{**part, "values": values.tolist()}]
    (failure,) = differences(record, model, golden.utterances(), processor)
    assert failure.startswith("frames [0, None], channels [0, 32]")


def test_transcripts_are_compared() -> None:
    """The fixture's CTC head has five outputs; what it gives is spelt here by hand from its logits."""
    folder = ROOT / "tests" / "data" / "hf" / "ctc"
    model = zoo.load(folder, heads=True)
    waves = [torch.from_numpy(soundfile.read(ROOT / "examples" / "audio" / "0_theo_0.wav", dtype="float32")[0])]
    processor = json.loads((folder / "preprocessor_config.json").read_text())
    symbols = model.config.symbols
    with torch.no_grad():
        best = model(waves).logits[0].argmax(-1).tolist()
    spelt = "".join(symbols[k] for i, k in enumerate(best) if symbols[k] != "<pad>" and (i == 0 or best[i - 1] != k))
    assert spelt
    record = {"return_attention_mask": None, "attention_mask_given": False, "join": "", "lower": False}
    assert differences({**record, "transcripts": [spelt.replace("|", " ").strip()]}, model, waves, processor) == []
    (failure,) = differences({**record, "transcripts": ["something else"]}, model, waves, processor)
    assert failure.endswith("instead of 'something else'")


def test_collapsing() -> None:
    logits = torch.nn.functional.one_hot(torch.tensor([0, 2, 2, 0, 2, 1, 1, 3, 0])).float()
    assert collapsed(logits, 0) == [2, 2, 1, 3] and collapsed(logits, 1) == [0, 2, 0, 2, 3, 0]


def test_torchaudio_transcripts_leave_outputs_out() -> None:
    class Fixed:
        def __call__(self, waveforms: Tensor) -> zoo.EncoderOutput:
            logits = torch.nn.functional.one_hot(torch.tensor([0, 4, 4, 0, 4, 5, 0]), 6).float()
            logits[:, 1] = 9.0  # what is left out would be best
            return zoo.EncoderOutput((), torch.tensor([7]), logits[None])

    record = {"left_out": [1, 2, 3], "labels": "|E"}
    assert transcript(record, Fixed(), torch.zeros(100)) == "||E"


def test_without_network_it_fails_and_says_why(tmp_path: Path) -> None:
    """No skip: who asks for these tests and cannot have them is told."""
    environment = {**os.environ, "ZOO_OFFLINE": "1", "ZOO_CACHE": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "weights", str(Path(__file__))]
    chosen = ["-k", "test_inference_distilhubert or WAV2VEC2_ASR_BASE_10M"]
    done = subprocess.run([*command, *chosen], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and "2 failed" in done.stdout and "skipped" not in done.stdout
    assert "hf:ntu-spml/distilhubert is not in the cache" in done.stdout
    assert "wav2vec2_base_960_ft_10m is not in the cache" in done.stdout
    assert "ZOO_OFFLINE=1 forbids the network" in done.stdout
    assert list(tmp_path.iterdir()) == []
