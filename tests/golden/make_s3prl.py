"""Makes the TERA, Mockingjay, Audio ALBERT and spectral part of the golden data with s3prl and torchaudio themselves.

Needs s3prl and torchaudio (README.md beside this file says how); runs outside the project's environment:

    python tests/golden/make_s3prl.py golden         # spectral/*.{json,npz}: features, baselines, models
    python tests/golden/make_s3prl.py checkpoints    # ../data/s3prl/*.ckpt and what s3prl computes from them

Each takes `--out DIR`. Weights and audio are those of generator.py.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import sys
import tempfile
import types
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchaudio
from generator import tensors, waveform
from recording import SPEECH, UTTERANCE, UTTERANCES, command_line, describe, write
from torch import Tensor, nn
from torchaudio.compliance import kaldi

# s3prl 0.4.18 asks torchaudio for what its newest release no longer has; nothing here uses it.
torchaudio.set_audio_backend = lambda *_: None
sox = types.ModuleType("torchaudio.sox_effects")
sox.apply_effects_tensor = sox.apply_effects_file = None
sys.modules["torchaudio.sox_effects"] = torchaudio.sox_effects = sox

from s3prl.upstream.baseline import hubconf as baselines  # noqa: E402
from s3prl.upstream.mockingjay.builder import PretrainedTransformerWithHead  # noqa: E402
from s3prl.upstream.mockingjay.expert import UpstreamExpert  # noqa: E402

HERE = Path(__file__).resolve().parent
SEED = 20
# Louder than elsewhere: a band that never rises above the floor becomes its mean's rounding divided by 1e-10 in s3prl.
# The last one ends in digital silence, which s3prl's `mel` and `linear` take for padding.
BASELINE_UTTERANCES = (
    *({**spec, "gain": max(spec["gain"], 0.5)} for spec in UTTERANCES),
    {"file": SPEECH[1], "start": 90000, "samples": 3000, "gain": 1.0, "offset": 0.0},
)
TRAILING = 700  # zeros behind the last one
BASELINES = ("fbank", "fbank_no_cmvn", "mfcc", "mel", "linear", "spectrogram")

MEL = {
    "target_level": -25, "win_ms": 25, "hop_ms": 10, "n_freq": 201, "n_mels": 80, "n_mfcc": 13,
    "input": {"feat_type": "mel", "channel": 0, "log": True, "delta": 0, "cmvn": True},
    "target": {"feat_type": "mel", "channel": 1, "log": True, "delta": 0, "cmvn": True},
}  # fmt: skip
LINEAR_TARGET = {**MEL, "target": {**MEL["target"], "feat_type": "linear"}}
FBANK = {
    "kaldi": {
        "feat_type": "fbank",
        "fbank": {"frame_length": 25.0, "frame_shift": 10.0, "num_mel_bins": 80, "use_log_fbank": True},
    },
    "delta": {"order": 2, "win_length": 5},
    "cmvn": {"use_cmvn": True},
}
# name -> (audio, fields of the transformer, sequence_length, layout)
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], int, str]] = {
    "tera": (MEL, {}, 1500, "Upstream_Config"),
    "tera_fbank": (FBANK, {}, 1500, "Config"),
    "tera_chunked": (MEL, {}, 12, "Upstream_Config"),
    "tera_pre_norm": (MEL, {"pre_layer_norm": True, "hidden_act": "relu"}, 0, "Upstream_Config"),
    "mockingjay_linear": (LINEAR_TARGET, {"hidden_act": "swish"}, 500, "Config"),
    "audio_albert": (MEL, {"share_layer": True, "num_hidden_layers": 3}, 1500, "Config"),
}


def configuration(name: str) -> dict[str, Any]:
    """What s3prl's trainer stores of a case."""
    audio, fields, length, _ = CASES[name]
    transformer = {
        "input_dim": -1, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 64, "hidden_act": "gelu", "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1, "initializer_range": 0.02, "layer_norm_eps": 1e-12,
        "share_layer": False, "pre_layer_norm": False, **fields,
    }  # fmt: skip
    return {"transformer": transformer, "task": {"sequence_length": length}, "audio": audio}


def checkpoint(name: str, state: dict[str, Tensor], head: dict[str, Tensor], path: Path) -> None:
    """Writes a file in the layout of s3prl's trainer."""
    runner = {"runner": {"total_steps": 200000}}
    found = configuration(name)
    layout = CASES[name][3]
    sections = {"Config": found, "Runner": runner}
    if layout == "Upstream_Config":
        sections = {"Config": runner, "Upstream_Config": found}
    arguments = argparse.Namespace(upstream="tera", seed=1337)
    optimizer = {"state": {}, "param_groups": []}
    torch.save(
        {"Optimizer": optimizer, "Step": 1, "Args": arguments, **sections, "Transformer": state, "SpecHead": head}, path
    )


def expert(name: str, seed: int, scale: str, path: Path) -> tuple[UpstreamExpert, dict[str, Any], dict[str, Any]]:
    """s3prl's own expert on generated weights, in eval mode, and what its two state dicts hold."""
    nothing = {"load_pretrain": "False", "no_grad": "False", "dropout": "default", "spec_aug": "False",
               "spec_aug_prev": "True", "output_hidden_states": "True", "permute_input": "False",
               "select_layer": -1, "ckpt_file": str(path)}  # fmt: skip
    checkpoint(name, {}, {}, path)
    empty = PretrainedTransformerWithHead(nothing, inp_dim=-1)
    described = describe(empty.model), describe(empty.SpecHead)
    states = []
    for prefix, entries in zip(("", "head."), described, strict=True):
        named = {prefix + key: value for key, value in entries.items()}
        values = {key: torch.from_numpy(value) for key, value in tensors(named, seed, scale).items()}
        states.append({key.removeprefix(prefix): value for key, value in values.items()})
    # Modules that s3prl registers twice have one set of values, the one that a checkpoint of it would have.
    empty.model.load_state_dict(states[0])
    checkpoint(name, dict(empty.model.state_dict()), states[1], path)
    model = UpstreamExpert(str(path))
    return model.eval(), *described


def compute(model: UpstreamExpert, waves: Sequence[Tensor]) -> dict[str, Tensor]:
    """Each utterance alone, the padded batch, and the gradients of the first."""
    arrays: dict[str, Any] = {}
    for i, wave in enumerate(waves):
        wave = wave.clone().requires_grad_()
        states = model([wave])["hidden_states"]
        for k, value in enumerate(states):
            arrays[f"single{i}/{k}"] = value[0]
        if i == 0:
            loss = sum(value.pow(2).mean() for value in states)
            parameters = dict(model.transformer.model.named_parameters())
            gradients = torch.autograd.grad(loss, [wave, *parameters.values()])
            arrays["loss"], arrays["grad/input"] = loss, gradients[0]
            for key, gradient in zip(parameters, gradients[1:], strict=True):
                flat = gradient.flatten()
                arrays[f"grad/{key}/norm"] = flat.double().norm()
                arrays[f"grad/{key}/slice"] = flat[:: max(1, len(flat) // 64)][:64]
    with torch.no_grad():
        for k, value in enumerate(model(list(waves))["hidden_states"]):
            arrays[f"padded/{k}"] = value
    return arrays


def record_model(name: str, scale: str, folder: Path) -> None:
    """One model case."""
    with tempfile.TemporaryDirectory() as temporary:
        model, state, head = expert(name, SEED, scale, Path(temporary) / "model.ckpt")
        arrays = compute(model, [torch.from_numpy(waveform(spec)) for spec in UTTERANCES])
    facts = {"kind": "model", "case": name, "config": configuration(name), "layout": CASES[name][3], "seed": SEED,
             "scale": scale, "state": state, "head": head, "utterances": UTTERANCES}  # fmt: skip
    save(folder / f"{name}_{scale}", facts, arrays)


def record_baselines(folder: Path) -> None:
    """The six baselines: each utterance alone and the batch of all."""
    waves = [torch.from_numpy(waveform(spec)) for spec in BASELINE_UTTERANCES]
    waves[-1] = nn.functional.pad(waves[-1], (0, TRAILING))
    arrays: dict[str, Any] = {}
    for name in BASELINES:
        model = getattr(baselines, name)().eval()
        for i, wave in enumerate(waves):
            arrays[f"{name}/single{i}"] = model([wave])["hidden_states"][0][0]
        arrays[f"{name}/padded"] = model(waves)["hidden_states"][0]
    facts = {"kind": "baselines", "utterances": BASELINE_UTTERANCES, "trailing": TRAILING}
    # Every fourth frame keeps the file small.
    save(folder / "baselines", facts, {key: value[..., ::4, :] for key, value in arrays.items()})


def record_transforms(folder: Path) -> None:
    """torchaudio's own functions, at every option that the checkpoints use."""
    arrays: dict[str, Any] = {}
    for i, spec in enumerate(UTTERANCES):
        wave = torch.from_numpy(waveform(spec))
        stft = torchaudio.transforms.Spectrogram(n_fft=400, win_length=400, hop_length=160)
        power = stft(wave)
        mel = torchaudio.transforms.MelScale(sample_rate=16000, n_mels=80)(power)
        fbank = kaldi.fbank(wave[None], num_mel_bins=80, frame_length=25.0, frame_shift=10.0, use_log_fbank=True)
        first = torchaudio.transforms.ComputeDeltas(win_length=5)(fbank.T[None])
        arrays |= {
            f"{i}/power": power.T, f"{i}/log_mel": (mel.T + 1e-10).log(), f"{i}/fbank": fbank,
            f"{i}/mfcc": kaldi.mfcc(wave[None], num_ceps=13, frame_length=25.0, frame_shift=10.0),
            f"{i}/spectrogram": kaldi.spectrogram(wave[None], frame_length=25.0, frame_shift=10.0),
            f"{i}/deltas": first[0].T,
            f"{i}/cmvn": (fbank - fbank.mean(0, keepdim=True)) / (1e-10 + fbank.std(0, keepdim=True)),
        }  # fmt: skip
    save(folder / "transforms", {"kind": "transforms", "utterances": UTTERANCES}, arrays)


def save(stem: Path, facts: dict[str, Any], arrays: dict[str, Tensor]) -> None:
    """Writes a case with its provenance."""
    document = {
        "reference": f"s3prl {version('s3prl')}, torchaudio {torchaudio.__version__}, torch {torch.__version__}, "
        f"Python {platform.python_version()}",
        "script": "make_s3prl.py",
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        **facts,
    }
    values = {key: np.asarray(value.detach()) for key, value in arrays.items()}
    assert all(np.isfinite(value).all() for value in values.values())
    write(stem, document, values, packed=stem.parent.name != "s3prl")


def record_checkpoints(folder: Path) -> None:
    """Genuine small files in both layouts, and what s3prl computes from them."""
    arrays, files = {}, {}
    wave = torch.from_numpy(waveform(UTTERANCE))
    for name in ("tera", "tera_fbank", "audio_albert"):
        path = folder / f"{name}.ckpt"
        model, state, head = expert(name, SEED + 1, "lively", path)
        with torch.no_grad():
            arrays[f"{name}.ckpt/last"] = model([wave])["last_hidden_state"][0]
        files[f"{name}.ckpt"] = {"layout": CASES[name][3], "state": state, "head": head}
    save(folder / "expected", {"utterance": UTTERANCE, "seed": SEED + 1, "scale": "lively", "files": files}, arrays)


def make_golden(folder: Path) -> None:
    """Front ends, baselines and models."""
    record_transforms(folder)
    record_baselines(folder)
    for name in CASES:
        for scale in ("usual", "lively"):
            record_model(name, scale, folder)


def main(argv: Sequence[str] | None = None) -> None:
    """Command line of the maker."""
    places = HERE / "spectral", HERE.parent / "data" / "s3prl"
    command_line(__doc__, {"golden": (make_golden, places[0]), "checkpoints": (record_checkpoints, places[1])}, argv)


if __name__ == "__main__":
    main()
