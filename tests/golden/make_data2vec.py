"""Makes the data2vec part of the golden data with fairseq's own class, and two checkpoints that fairseq itself writes.

Runs in fairseq's own environment (README.md beside this file), never in the project's:

    python tests/golden/make_data2vec.py golden         # tests/golden/data/data2vec_*.{json,npz}
    python tests/golden/make_data2vec.py checkpoints    # tests/data/data2vec*.pt, data2vec_expected.{json,npz}

Each takes `--out DIR`. The class is `examples/data2vec/models/data2vec_audio.py` of fairseq 0.12.2, which the
`fairseq-fixed` wheel holds unchanged. Configurations, stages and files are handled as in `make_fairseq.py`.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from fairseq import tasks
from fairseq.examples.data2vec.models.data2vec_audio import Data2VecAudioModel
from fairseq.registry import REGISTRIES
from generator import tensors, waveform
from make_fairseq import (
    EXTRA_STATE,
    HERE,
    LETTERS,
    NO_DROPOUT,
    attention_entropy,
    check_stages,
    conv_layers,
    in_double,
    make_config,
    make_dictionary,
    normalise,
    plain,
    prepare,
    reload,
    run,
    runner,
    train,
    training_state,
    versions,
)
from omegaconf import DictConfig, OmegaConf, open_dict
from recording import UTTERANCE, command_line, compute, describe, fill, provenance, state_rms, write, write_case
from torch import nn
from torch.nn import functional as F

# Of six seeds, the one with the least noise: the norms of the stacked convolutions divide by what the seed makes.
SEED = 25
TASK = {"_name": "audio_pretraining", "data": "data", "normalize": True}
# What the published recipe sets, in a small size.
MODEL = {
    "_name": "data2vec_audio",
    "extractor_mode": "layer_norm",
    "conv_feature_layers": conv_layers(16),
    "conv_bias": False,
    "layer_norm_first": False,
    "conv_pos": 95,
    "pos_conv_depth": 5,
    "encoder_layers": 2,
    "encoder_embed_dim": 32,
    "encoder_ffn_embed_dim": 64,
    "encoder_attention_heads": 4,
    "instance_norm_target_layer": True,
    "average_top_k_layers": 2,
    "ema_decay": 0.999,
    "ema_end_decay": 0.9999,
    "ema_anneal_end_step": 30000,
    "ema_transformer_only": True,
    "ema_layers_only": True,
    "require_same_masks": True,
    "mask_dropout": 0,
    **NO_DROPOUT,
}


def configure(model: dict[str, Any], task: dict[str, Any]) -> DictConfig:
    """fairseq's whole configuration, with the criterion of the recipe in place of make_fairseq's choice."""
    config = make_config(model, task)
    if model["_name"] == "data2vec_audio":
        config.criterion = REGISTRIES["criterion"]["dataclass_registry"]["model"](_name="model")
    return config


def build(config: DictConfig, scale: str, seed: int = SEED) -> tuple[tasks.FairseqTask, Data2VecAudioModel]:
    """Builds a pre-training model through its task and gives it generated weights."""
    task = tasks.setup_task(config.task)
    return task, fill(task.build_model(config.model), seed, scale)


def whole_double(model: Data2VecAudioModel) -> nn.Module:
    """The same model in float64, also inside the norms and the GELUs that fairseq computes in float32."""
    for layer in model.encoder.layers:
        layer.activation_fn = F.gelu
    return in_double(model)


def make_golden(out: Path) -> None:
    """Writes `data2vec_<scale>.json` and `.npz` for both scales."""
    config = configure(MODEL, TASK)
    for scale in ("usual", "lively"):
        _, model = build(config, scale)
        check_stages(model, True)
        arrays, frames = compute(*runner(model, True), torch.float32)
        exact, exact_frames = compute(*runner(whole_double(build(config, scale)[1]), True), torch.float64)
        assert frames == exact_frames
        assert frames["padded"] == frames["single"]  # the length formula
        leak = max(
            float((arrays["padded/0"][i, :n] - arrays[f"single{i}/0"]).abs().max())
            for i, n in enumerate(frames["padded"])
        )
        assert leak > 1e-3  # padding comes in through the stacked convolutions, or the case would prove nothing
        about = {
            "case": f"data2vec_{scale}",
            "family": "data2vec",
            "dialect": "fairseq",
            **provenance(versions(), "make_data2vec.py golden"),
            "notes": "fairseq as installed, nothing patched; dropouts 0, eval mode. A file that training writes "
            "also has a dict of tensors under _ema in its model (tests/data/data2vec.pt), which is not in `state`",
            "config": plain(config),
            "normalize": True,
            "seed": SEED,
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
                "attention_entropy": attention_entropy(build(config, scale)[1], True),
                "state_rms": state_rms(arrays, config.model.encoder_layers),
                "leak": round(leak, 3),
            },
        )


# --------------------------------------------------------------------------------------------------------------------
# Tiny checkpoints

TINY = {
    **MODEL,
    "conv_feature_layers": conv_layers(8),
    "encoder_layers": 1,
    "encoder_embed_dim": 16,
    "encoder_ffn_embed_dim": 16,
    "encoder_attention_heads": 2,
    "average_top_k_layers": 1,
}


def add_teacher(model: Data2VecAudioModel, seed: int) -> None:
    """Makes the averaged teacher as training does, then moves it away from the student, or both would look the same."""
    model.set_num_updates(0)
    shapes = {f"_ema.{name}": {"shape": list(value.shape)} for name, value in model.ema.fp32_params.items()}
    for name, values in tensors(shapes, seed, "lively").items():
        model.ema.fp32_params[name.removeprefix("_ema.")].copy_(torch.from_numpy(values))


def make_checkpoints(out: Path) -> None:
    """Writes both checkpoints and what fairseq computes with them."""
    documents: dict[str, Any] = {}
    arrays: dict[str, Any] = {}

    def add(name: str, about: str, config: DictConfig, model: nn.Module, seed: int, **others: Any) -> None:
        encoder = model.w2v_encoder.w2v_model if hasattr(model, "w2v_encoder") else model
        source = normalise(torch.from_numpy(waveform(UTTERANCE)), True)[None]
        with torch.no_grad():
            arrays[f"{name}/last"] = run(encoder, source).states[-1][0].numpy()
            if encoder is not model:
                arrays[f"{name}/logits"] = model(source=source, padding_mask=None)["encoder_out"][:, 0].numpy()
        documents[name] = {
            "about": about,
            "family": "data2vec",
            "normalize": True,
            "config": plain(config),
            "seed": seed,
            "scale": "lively",
            **others,
        }
        print(f"{name}: {(out / name).stat().st_size / 1000:.0f} kB")

    config = configure(TINY, TASK)
    task, model = build(config, "lively", seed=121)
    state = describe(model)
    add_teacher(model, seed=121)
    name = "data2vec.pt"
    train(config, task, model).save_checkpoint(str(out / name), EXTRA_STATE)
    teacher = {key: {"shape": list(value.shape), "dtype": "float32"} for key, value in model.ema.fp32_params.items()}
    about = "pre-trained; model holds a dict of the averaged teacher's tensors under _ema, named as in the encoder"
    add(name, about, config, reload(out / name, model), 121, ema=teacher, state=state)

    config = configure({"_name": "wav2vec_ctc", "w2v_path": str(out / name), "mask_prob": 0.0, "normalize": True}, {
        **TASK, "_name": "audio_finetuning", "labels": "ltr"
    })  # fmt: skip
    task = tasks.setup_task(config.task)
    task.state.merge_state_dict({"target_dictionary": make_dictionary(LETTERS)})
    with contextlib.redirect_stdout(io.StringIO()):
        model = fill(task.build_model(config.model), 122, "lively")
    trainer = train(config, task, model)
    with open_dict(config):
        config.model.w2v_args = model.cfg.w2v_args
        config.model.w2v_path = "/checkpoints/parent.pt"
    name = "data2vec_ctc.pt"
    cfg = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
    torch.save(training_state(trainer, cfg=cfg), out / name)
    add(
        name,
        "fine-tuned; cfg.model.w2v_args is a dict of a data2vec parent",
        config,
        reload(out / name, model),
        122,
        state=describe(model),
    )

    document = {
        **provenance(versions(), "make_data2vec.py checkpoints"),
        "utterance": UTTERANCE,
        "files": documents,
    }
    write(out / "data2vec_expected", document, arrays)


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
