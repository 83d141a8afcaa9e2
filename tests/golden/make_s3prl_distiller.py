"""Makes DistilHuBERT's part of the golden data with s3prl itself, and a tiny file in its layout.

Runs in an environment of its own (README.md beside this file), never in the project's:

    python tests/golden/make_s3prl_distiller.py golden         # tests/golden/data/distilhubert_*.{json,npz}
    python tests/golden/make_s3prl_distiller.py checkpoints    # tests/data/distilhubert.pt, distiller_expected.*

Each takes `--out DIR`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import recording
import torch
from generator import waveform
from recording import (
    UTTERANCE,
    UTTERANCES,
    Run,
    Stages,
    command_line,
    compute,
    describe,
    fill,
    in_double,
    provenance,
    query_entropy,
    state_rms,
    write,
    write_case,
)
from s3prl.upstream.distiller.builder import PretrainedDistiller
from s3prl.upstream.distiller.model import DistillerConfig, DistillerModel
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent


def conv_layers(channels: int) -> str:
    """The seven convolutions of every released model, with fewer channels."""
    return f"[({channels},10,5)] + [({channels},3,2)] * 4 + [({channels},2,2)] * 2"


# As in the released file's configuration, but for the sizes.
BASE: dict[str, Any] = {
    "extractor_mode": "default",
    "extractor_conv_feature_layers": conv_layers(16),
    "extractor_dropout": 0.0,
    "feature_grad_mult": 1.0,
    "conv_pos": 128,
    "conv_pos_groups": 16,
    "encoder_layers": 2,
    "encoder_embed_dim": 32,
    "encoder_ffn_embed_dim": 64,
    "encoder_attention_heads": 4,
    "activation_fn": "gelu",
    "layer_norm_first": False,
    "attention_type": "original",
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "encoder_layerdrop": 0.0,
    "final_dim": 8,
    "out_layer_type": "expand-last",
    "out_layer_inter_dim": -1,
    "n_tasks": 3,
    "task_emb_type": "expand-last",
    "task_emb_size": 0,
    "loss_type": "l1",
    "feat_pen_loss": 0.0,
    "cosine_loss": 1.0,
    "pred_layer_id": [4, 8, 12],
    "init_teacher_conv_layers": True,
    "init_teacher_encoder_layers": True,
}
TINY = {
    **BASE,
    "extractor_conv_feature_layers": conv_layers(8),
    "encoder_layers": 1,
    "encoder_embed_dim": 16,
    "encoder_ffn_embed_dim": 16,
    "encoder_attention_heads": 2,
}
SEED = 301


def build(fields: dict[str, Any], seed: int, scale: str) -> nn.Module:
    """Builds the model, which prints what it does, and gives it generated weights."""
    with contextlib.redirect_stdout(io.StringIO()):
        model = DistillerModel(DistillerConfig(fields))
    return fill(model, seed, scale)


def runner(model: nn.Module) -> Run:
    """Runs the model as s3prl's `PretrainedDistiller` does: raw waveforms, and a mask whether padded or not."""

    def run(source: Tensor, padding_mask: Tensor | None) -> Stages:
        seen: dict[str, Tensor] = {}
        # Clones, because padded frames of the projection are set to zero in place afterwards.
        hooks = [
            model.post_extract_proj.register_forward_hook(
                lambda module, args, output: seen.update(projection=output.clone())
            ),
            model.encoder.layers[0].register_forward_pre_hook(
                lambda module, args: seen.update(entry=args[0].transpose(0, 1))
            ),
            model.encoder.register_forward_hook(lambda module, args, output: seen.update(final=output[0])),
        ]
        valid = torch.ones_like(source) if padding_mask is None else (~padding_mask).to(source.dtype)
        try:
            conv, _, _, mask, hidden = model(source, valid, get_hidden=True, no_pred=True)
        finally:
            for hook in hooks:
                hook.remove()
        # Of pre-norm models the list ends before the encoder's norm; of others it ends with the same.
        states = [seen["entry"], *hidden[:-1], seen["final"]]
        return Stages(conv, seen["projection"], states, mask == 0)

    return run


def attention_entropy(model: nn.Module) -> list[float]:
    """Mean entropy of each layer's attention on the longest utterance, as a fraction of that of even attention."""
    longest = torch.from_numpy(waveform(UTTERANCES[1]))[None]
    return query_entropy(model.encoder.layers, lambda: runner(model)(longest, None))


def versions() -> dict[str, Any]:
    """What made the data."""
    return recording.versions("s3prl", version=version("s3prl"))


def make_golden(out: Path) -> None:
    """Writes `distilhubert_<scale>.json` and `.npz` for both scales."""
    for scale in ("usual", "lively"):
        model = build(BASE, SEED, scale)
        arrays, frames = compute(model, runner(model), lambda wave: wave, torch.float32)
        double = in_double(build(BASE, SEED, scale))
        exact, _ = compute(double, runner(double), lambda wave: wave, torch.float64)
        assert frames["padded"] == frames["single"]
        about = {
            "case": f"distilhubert_{scale}",
            "family": "distilhubert",
            "dialect": "s3prl_distiller",
            **provenance(versions(), "make_s3prl_distiller.py golden"),
            "notes": "s3prl as installed, nothing patched; dropouts 0, eval mode. State 0 is what enters the first "
            "layer; s3prl's own list begins with the projection instead, zero where padded",
            "config": {"distiller": BASE},
            "normalize": False,
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
            {"attention_entropy": attention_entropy(model), "state_rms": state_rms(arrays, 2)},
        )


def make_checkpoints(out: Path) -> None:
    """Writes a file as s3prl's pre-training runner does, reads it back with s3prl, and records what that computes."""
    seed, name = 302, "distilhubert.pt"
    model = build(TINY, seed, "lively")
    config = {"distiller": TINY, "teacher": {"model": "hubert_base"}, "task": {"sequence_length": 250000}, "audio": {}}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
    model.output_layer(torch.ones(1, 1, 16)).sum().backward()
    optimizer.step()
    state = {
        "Optimizer": optimizer.state_dict(),
        "Step": 200000,
        "Args": argparse.Namespace(upstream="distiller", seed=1337),
        "Config": config,
        "Distiller": model.state_dict(),
    }
    torch.save(state, out / name)

    options = {"ckpt_file": str(out / name), "load_pretrain": "True", "no_grad": "True", "permute_input": "False"}
    with contextlib.redirect_stdout(io.StringIO()):
        loaded = PretrainedDistiller(options)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in loaded.model.state_dict().items())
    with torch.no_grad():
        *_, hidden = loaded([torch.from_numpy(waveform(UTTERANCE))], get_hidden=True)
    document = {
        **provenance(versions(), "make_s3prl_distiller.py checkpoints"),
        "utterance": UTTERANCE,
        "files": {
            name: {
                "about": "as s3prl's pre-training runner writes it, read back by s3prl's own loader",
                "family": "distilhubert",
                "normalize": False,
                "config": config,
                "seed": seed,
                "scale": "lively",
                "state": describe(model),
            }
        },
    }
    write(out / "distiller_expected", document, {f"{name}/last": hidden[-1][0].numpy()})


def main(argv: Sequence[str] | None = None) -> None:
    """Command line of the maker."""
    command_line(
        __doc__,
        {"golden": (make_golden, HERE / "data"), "checkpoints": (make_checkpoints, HERE.parent / "data")},
        argv,
    )


if __name__ == "__main__":
    main()
