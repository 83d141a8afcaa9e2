"""Makes the golden data of MMS's adapters with fairseq's own class, and a tiny speech recognition model with one.

Runs in fairseq's own environment (README.md beside this file), never in the project's:

    python tests/golden/make_mms.py golden         # tests/golden/data/mms_*.{json,npz}
    python tests/golden/make_mms.py checkpoints    # tests/data/mms.pt, mms_expected.{json,npz}

Each takes `--out DIR`. Configurations, stages and files are handled as in `make_fairseq.py`.
"""

from __future__ import annotations

import contextlib
import functools
import io
import tempfile
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fairseq
import numpy as np
import torch
from fairseq.models.wav2vec.wav2vec2_classification import Wav2Vec2ClassificationConfig, Wav2VecClassification
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
from omegaconf import OmegaConf, open_dict
from recording import UTTERANCE, command_line, compute, describe, fill, provenance, state_rms, write, write_case
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
    for case, (seed, fields, normalize) in CASES.items():
        for scale in ("usual", "lively"):
            config = make_config(fields, {**WAV2VEC2_TASK, "normalize": normalize})
            model = first_adapter(build(config, seed, scale)[1])
            check_stages(model, normalize)
            arrays, frames = compute(*runner(model, normalize), torch.float32, short=True)
            double = first_adapter(in_double(build(config, seed, scale)[1]))
            exact, _ = compute(*runner(double, normalize), torch.float64, short=True)
            about = {
                "case": f"{case}_{scale}",
                "family": "wav2vec2",
                **provenance(versions(), "make_mms.py golden"),
                "notes": "fairseq as installed, nothing patched; corpus_key [0]; dropouts 0, eval mode; no equal/* and "
                "no padded/grad/*",
                "config": plain(config),
                "normalize": normalize,
                "seed": seed,
                "scale": scale,
            }
            write_case(
                out,
                about,
                model,
                arrays,
                exact,
                frames,
                {
                    "attention_entropy": attention_entropy(model, normalize),
                    "state_rms": state_rms(arrays, config.model.encoder_layers),
                },
            )


def make_lid(path: Path, seed: int) -> tuple[dict[str, Any], np.ndarray]:
    """Writes a language identification model over a plain parent, and returns its facts and its last state.

    Its own task needs a data set; only its dictionary's size is asked for here, and the trainer's state is left empty.
    """
    parent = plain(make_config(TINY_WAV2VEC2_LARGE, {**WAV2VEC2_TASK, **NORMALIZED}))
    fields = {"_name": "wav2vec_classification", "pooling": "mean", "data": "data", "w2v_args": parent, **NORMALIZED}
    config = OmegaConf.structured(Wav2Vec2ClassificationConfig)
    with open_dict(config):
        config.update(fields)
    with contextlib.redirect_stdout(io.StringIO()):
        model = Wav2VecClassification.build_model(config, types.SimpleNamespace(target_dictionary=range(5)))
    fill(model, seed, "lively")
    sections = {"model": fields, "task": {"_name": "audio_classification", "data": "data", **NORMALIZED}}
    content = {"args": None, "cfg": sections, "model": model.state_dict(), "optimizer_history": [], "extra_state": {}}
    torch.save(content, path)
    source = normalise(torch.from_numpy(waveform(UTTERANCE)), True)[None]
    with torch.no_grad():
        last = run(model.w2v_encoder.w2v_model, source).states[-1][0].numpy()
    facts = {
        "about": "language identification: no output per frame, a pooling head",
        "family": "wav2vec2",
        "normalize": True,
        "config": sections,
        "seed": seed,
        "scale": "lively",
        "state": describe(model),
    }
    return facts, last


def make_checkpoints(out: Path) -> None:
    """Writes a fine-tuned model whose language stands beside it, and what fairseq computes with both together."""
    name, seed = "mms.pt", 411
    with tempfile.TemporaryDirectory() as scratch:
        files, parent = Checkpoints(out, Path(scratch)), Path(scratch) / "parent.pt"
        _, _, trainer = files.pretrained(410, TINY_WAV2VEC2_LARGE, {**WAV2VEC2_TASK, **NORMALIZED})
        torch.save(training_state(trainer), parent)
        task = {**WAV2VEC2_TASK, **NORMALIZED, "_name": "audio_finetuning", "labels": "ltr"}
        # The parent has no adapters, so fairseq cannot fill the fine-tuned model from it; weights are generated anyway.
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
    lid = {"mms_lid.pt": make_lid(out / "mms_lid.pt", 412)}
    document = {
        **provenance(versions(), "make_mms.py checkpoints"),
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
            },
            **{key: facts for key, (facts, _) in lid.items()},
        },
    }
    arrays = {f"{name}/last": last.numpy(), f"{name}/logits": logits.numpy()}
    write(out / "mms_expected", document, arrays | {f"{key}/last": value for key, (_, value) in lid.items()})
    print(f"{name}: {(out / name).stat().st_size / 1000:.0f} kB, fairseq {fairseq.__version__}")


def main(argv: Sequence[str] | None = None) -> None:
    """Command line of the maker."""
    prepare()
    command_line(
        __doc__,
        {"golden": (make_golden, HERE / "data"), "checkpoints": (make_checkpoints, HERE.parent / "data")},
        argv,
    )


if __name__ == "__main__":
    main()
