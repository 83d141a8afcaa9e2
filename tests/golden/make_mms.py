"""Makes the golden data of MMS's adapters with fairseq's own class, and a tiny speech recognition model with one.

Runs in fairseq's own environment (README.md beside this file), never in the project's:

    python tests/golden/make_mms.py golden         # tests/golden/data/mms_*.{json,npz}
    python tests/golden/make_mms.py checkpoints    # tests/data/mms.pt, mms_expected.{json,npz}

Each takes `--out DIR`. Configurations, stages and files are handled as in `make_fairseq.py`.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fairseq
import numpy as np
import torch
from generator import tensors, waveform
from make_fairseq import (
    HERE,
    NORMALIZED,
    TINY_WAV2VEC2_LARGE,
    WAV2VEC2,
    WAV2VEC2_LARGE,
    WAV2VEC2_TASK,
    Checkpoints,
    attention_entropy,
    build,
    check_stages,
    in_double,
    make_config,
    make_dictionary,
    normalise,
    plain,
    prepare,
    run,
    runner,
    training_state,
    versions,
)
from recording import UTTERANCE, UTTERANCES, compute, describe, measure_noise, state_rms, write
from torch import nn

ADAPTED = {"layer_type": "trf_adp", "adp_num": 1, "adp_dim": 8, "adp_act_fn": "relu", "adp_trf_idx": "all"}
# Case -> seed, fields, whether waveforms are normalised. MMS is pre-norm; fairseq's class does both.
CASES: dict[str, tuple[int, dict[str, Any], bool]] = {
    "mms_pre_norm": (405, {**WAV2VEC2_LARGE, **ADAPTED}, True),
    "mms_post_norm": (407, {**WAV2VEC2, **ADAPTED}, False),
}
LANGUAGE, SYMBOLS = "xyz", tuple("|ABC")


def first_adapter(model: nn.Module) -> nn.Module:
    """Makes a model use the first adapter of each stack, as the recogniser does for a file with one language."""
    model.extract_features = functools.partial(model.extract_features, corpus_key=[0])
    return model


def make_golden(out: Path) -> None:
    """Writes `<case>_<scale>.json` and `.npz` for every case and both scales."""
    out.mkdir(parents=True, exist_ok=True)
    for case, (seed, fields, normalize) in CASES.items():
        for scale in ("usual", "lively"):
            config = make_config(fields, {**WAV2VEC2_TASK, "normalize": normalize})
            model = first_adapter(build(config, seed, scale)[1])
            check_stages(model, normalize)
            arrays, frames = compute(*runner(model, normalize), torch.float32, short=True)
            double = first_adapter(in_double(build(config, seed, scale)[1]))
            exact, _ = compute(*runner(double, normalize), torch.float64, short=True)
            document = {
                "case": f"{case}_{scale}",
                "family": "wav2vec2",
                "reference": versions(),
                "script": "tests/golden/make_mms.py golden",
                "date": datetime.date.today().isoformat(),
                "notes": "fairseq as installed, nothing patched; corpus_key [0]; dropouts 0, eval mode; no equal/* and "
                "no padded/grad/*",
                "config": plain(config),
                "normalize": normalize,
                "seed": seed,
                "scale": scale,
                "utterances": UTTERANCES,
                "frames": frames,
                "noise": measure_noise(arrays, exact, frames),
                "health": {
                    "attention_entropy": attention_entropy(model, normalize),
                    "state_rms": state_rms(arrays, config.model.encoder_layers),
                },
                "state": describe(model),
            }
            stored = {name: value.numpy() for name, value in arrays.items()}
            stored["padded/frames"] = np.array(frames["padded"], dtype=np.int64)
            write(out / f"{case}_{scale}", document, stored)


def make_checkpoints(out: Path) -> None:
    """Writes a fine-tuned model whose language stands beside it, and what fairseq computes with both together."""
    out.mkdir(parents=True, exist_ok=True)
    name, seed = "mms.pt", 411
    with tempfile.TemporaryDirectory() as scratch:
        files, parent = Checkpoints(out, Path(scratch)), Path(scratch) / "parent.pt"
        _, _, trainer = files.pretrained(410, TINY_WAV2VEC2_LARGE, {**WAV2VEC2_TASK, **NORMALIZED})
        torch.save(training_state(trainer), parent)
        task = {**WAV2VEC2_TASK, **NORMALIZED, "_name": "audio_finetuning", "labels": "ltr"}
        # The parent has no adapters, so the fine-tuned model cannot be filled from it; its weights are generated anyway.
        fields = {"_name": "wav2vec_ctc", **NORMALIZED, **ADAPTED, "adp_dim": 4, "no_pretrained_weights": True}
        config, model, trainer = files.finetuned(seed, fields, task, parent)
    state = training_state(trainer)

    # What `examples/speech_recognition/new/infer.py` takes from `adapter`: adapters, output layer, dictionary.
    shapes = {
        key: entry
        for key, entry in describe(model).items()
        if "adapter_layer" in key or key.startswith("w2v_encoder.proj")
    }
    dictionary = make_dictionary(SYMBOLS)
    for key in ("w2v_encoder.proj.weight", "w2v_encoder.proj.bias"):
        shapes[key]["shape"][0] = len(dictionary)
    language = {key: torch.from_numpy(value) for key, value in tensors(shapes, seed + 1, "lively").items()}
    task_state = {**state["task_state"], "target_dictionary": dictionary}
    torch.save({**state, "adapter": {LANGUAGE: {"model": language, "task_state": task_state}}}, out / name)
    model.w2v_encoder.proj = nn.Linear(16, len(dictionary))
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key in language:
                parameter.copy_(language[key])
        model.eval()
        source = normalise(torch.from_numpy(waveform(UTTERANCE)), True)[None]
        last = run(first_adapter(model.w2v_encoder.w2v_model), source).states[-1][0]
        logits = model(source=source, padding_mask=None, corpus_key=[0])["encoder_out"][:, 0]
    document = {
        "reference": versions(),
        "script": "tests/golden/make_mms.py checkpoints",
        "date": datetime.date.today().isoformat(),
        "utterance": UTTERANCE,
        "files": {
            name: {
                "about": "fine-tuned; adapters that the parent lacks; one language beside the model",
                "family": "wav2vec2",
                "normalize": True,
                "config": plain(config),
                "seed": seed,
                "scale": "lively",
                "language": {"name": LANGUAGE, "seed": seed + 1, "tensors": sorted(language), "symbols": SYMBOLS},
                "state": describe(model),
            }
        },
    }
    write(out / "mms_expected", document, {f"{name}/last": last.numpy(), f"{name}/logits": logits.numpy()})
    print(f"{name}: {(out / name).stat().st_size / 1000:.0f} kB, fairseq {fairseq.__version__}")


def main(argv: Sequence[str] | None = None) -> None:
    """Command line of the maker."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["golden", "checkpoints"])
    parser.add_argument("--out", type=Path, help="output folder (default: its place in the repository)")
    arguments = parser.parse_args(argv)
    prepare()
    if arguments.what == "golden":
        make_golden(arguments.out or HERE / "data")
    else:
        make_checkpoints(arguments.out or HERE.parent / "data")


if __name__ == "__main__":
    main()
