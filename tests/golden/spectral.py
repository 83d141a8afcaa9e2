"""Compares spectral features and the models on them with what torchaudio and s3prl recorded."""

from __future__ import annotations

import json
import re
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import zoo
from tests.golden import generator, store
from tests.golden.compare import SLICE, Case, Comparison, check_layers, check_silence
from zoo.layers import spectral
from zoo.models._family import Model

DATA = Path(__file__).parent / "spectral"


def read(name: str) -> Case:
    """A recorded case by its name."""
    return Case(name, json.loads((DATA / f"{name}.json").read_text()), store.read(DATA / f"{name}.npz"))


def model_names() -> list[str]:
    """Every recorded model."""
    return sorted(p.stem for p in DATA.glob("*.json") if json.loads(p.read_text())["kind"] == "model")


def states(facts: dict[str, Any], seed: int, scale: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The two state dicts of a checkpoint; what s3prl registers twice has the values that it loads last."""
    state = {k: torch.from_numpy(v) for k, v in generator.tensors(facts["state"], seed, scale).items()}
    heads = generator.tensors({f"head.{key}": value for key, value in facts["head"].items()}, seed, scale)
    if facts.get("case", "").startswith("audio_albert"):
        top = max(int(key.split(".")[2]) for key in state if key.startswith("encoder.layer."))
        state = {key: state[re.sub(r"(encoder\.layer)\.\d+", rf"\1.{top}", key)] for key in state}
    again = re.compile(r"(encoder\.layer\.\d+\.(?:attention\.)?)output\.LayerNorm")
    state = {key: state.get(again.sub(r"\1LayerNorm", key), value) for key, value in state.items()}
    return state, {key.removeprefix("head."): torch.from_numpy(value) for key, value in heads.items()}


def checkpoint(case: Case, folder: Path) -> Path:
    """The weights of a case in the layout of s3prl's trainer."""
    facts = case.facts
    state, head = states(facts, facts["seed"], facts["scale"])
    runner = {"runner": {"total_steps": 1}}
    if facts["layout"] == "Config":
        sections = {"Config": facts["config"], "Runner": runner}
    else:
        sections = {"Config": runner, "Upstream_Config": facts["config"]}
    path = folder / f"{case.name}.ckpt"
    content = {"Optimizer": {}, "Step": 1, "Args": Namespace(seed=1), **sections}
    torch.save({**content, "Transformer": state, "SpecHead": head}, path)
    return path


def compare_model(case: Case, model: Model, result: Comparison | None = None) -> Comparison:
    """Hold a model against a case: alone, exact in a batch, s3prl's batch, backward."""
    result = result or Comparison()
    want, waves = case.arrays, case.utterances()
    lengths = [len(wave) for wave in waves]
    frames = [len(want[f"single{i}/0"]) for i in range(len(waves))]
    depth = max(int(key.split("/")[1]) for key in want if re.fullmatch(r"single0/\d+", key))

    model.padding = "exact"
    with torch.no_grad():
        for i, wave in enumerate(waves):
            out = model(wave[None])
            if out.lengths.tolist() != [frames[i]] or len(out.hidden_states) != depth + 1:
                result.failures.append(f"single{i}: {out.lengths.tolist()} frames, {len(out.hidden_states)} states")
            if model.frame_count(len(wave)) != frames[i]:
                result.failures.append(f"single{i}: {model.frame_count(len(wave))} frames are foretold")
            for k, state in enumerate(out.hidden_states):
                result.check(f"single{i}/{k}", state[0], want[f"single{i}/{k}"])
        check_layers(result, model, waves[0], want, depth)
        for value in (float("nan"), 1e9):
            batch = nn.utils.rnn.pad_sequence(waves, batch_first=True, padding_value=value)
            for k, state in enumerate(model(batch, lengths).hidden_states):
                for i, n in enumerate(frames):
                    result.check(f"exact/{i}/{k}", state[i, :n], want[f"single{i}/{k}"])
                    if state[i, n:].any():
                        result.failures.append(f"exact/{i}/{k}: padded frames that are not zero")
        model.padding = "reference"
        out = model(nn.utils.rnn.pad_sequence(waves, batch_first=True), lengths)
        for k, state in enumerate(out.hidden_states):
            result.check(f"padded/{k}", state, want[f"padded/{k}"])

    model.padding = "exact"
    model.zero_grad()
    wave = waves[0].requires_grad_()
    loss = sum(state.square().mean() for state in model(wave[None]).hidden_states)
    loss.backward()
    result.check("loss", loss, want["loss"])
    unit = float(np.linalg.norm(want["grad/input"]))
    result.check("gradient/input", wave.grad, want["grad/input"], "gradient", unit)
    # A module that s3prl registers twice is listed once in its gradients, under the first name.
    recorded = {key.split("/")[1] for key in want if key.startswith("grad/") and key != "grad/input"}
    for name, parameter in model.named_parameters():
        if name not in recorded:
            result.failures.append(f"gradient/{name}: the reference has none")
            continue
        recorded.remove(name)
        unit = float(want[f"grad/{name.replace('key.bias', 'query.bias')}/norm"])
        flat = parameter.grad.flatten()
        part = flat[:: max(1, len(flat) // SLICE)][:SLICE]
        result.check(f"gradient/{name}/norm", flat.double().norm(), want[f"grad/{name}/norm"], "gradient", unit)
        result.check(f"gradient/{name}", part, want[f"grad/{name}/slice"], "gradient", unit)
    if recorded:
        result.failures.append(f"gradient: none for {sorted(recorded)[:3]}")
    return result


def compare_transforms() -> Comparison:
    """Hold the front ends against torchaudio's functions, relative to the largest value of each."""
    case, result = read("transforms"), Comparison()
    for i, wave in enumerate(case.utterances()):
        x, n = wave[None], torch.tensor([len(wave)])
        power = spectral.power_spectrum(x, n, 400, 160, 400)
        fbank = spectral.kaldi_fbank(x, bands=80, size=400, hop=160, sample_rate=16000)
        frames = torch.tensor([fbank.shape[1]])
        found = {
            "power": power,
            "log_mel": spectral.log_mel(power, 80, 16000),
            "fbank": fbank,
            "mfcc": spectral.kaldi_mfcc(x, bands=23, cepstra=13, size=400, hop=160, sample_rate=16000),
            "spectrogram": spectral.kaldi_spectrogram(x, size=400, hop=160),
            "deltas": spectral.deltas(fbank, frames, 5),
            "cmvn": spectral.normalise_frames(fbank, frames),
        }
        for name, value in found.items():
            want = case.arrays[f"{i}/{name}"]
            result.check(f"{name}/{i}", value[0], want, "transform", float(np.abs(want).max()))
    return result


def compare_baselines() -> Comparison:
    """Hold the baselines against s3prl's: alone, in a batch with NaN behind, and its own batch."""
    case, result = read("baselines"), Comparison()
    waves = case.utterances()
    waves[-1] = nn.functional.pad(waves[-1], (0, case.facts["trailing"]))
    lengths = [len(wave) for wave in waves]
    dirty = nn.utils.rnn.pad_sequence(waves, batch_first=True, padding_value=float("nan"))
    clean = nn.utils.rnn.pad_sequence(waves, batch_first=True)
    for name in ("fbank", "fbank_no_cmvn", "mfcc", "mel", "linear", "spectrogram"):
        model = zoo.load(name)
        (batch,) = model(dirty, lengths).hidden_states
        for i, wave in enumerate(waves):
            want = case.arrays[f"{name}/single{i}"]
            unit = float(np.abs(want).max())
            alone = model(wave[None]).hidden_states[0]
            # s3prl leaves out what it takes for padding at the end; here those frames are zero.
            result.check(f"single{i}/{name}", alone[0, ::4][: len(want)], want, "transform", unit)
            result.check(f"exact{i}/{name}", batch[i, ::4][: len(want)], want, "transform", unit)
            if batch[i, model.frame_count(len(wave)) :].any():
                result.failures.append(f"exact{i}/{name}: padded frames that are not zero")
        check_silence(result, model)
        model.padding = "reference"
        want = case.arrays[f"{name}/padded"]
        got = model(clean, lengths).hidden_states[0][:, ::4][:, : want.shape[1]]
        result.check(f"padded/{name}", got, want, "transform", float(np.abs(want).max()))
    return result
