"""Makes tiny checkpoints with torchaudio's own factories, and what torchaudio computes from them.

Needs torchaudio (s3prl's environment, README.md beside this file); runs outside the project's environment:

    python tests/golden/make_torchaudio.py checkpoints    # ../data/torchaudio_*, ../data/bare/*

Takes `--out DIR`. torchaudio releases a state dict and keeps its factory's arguments in its code. `torchaudio_*.pt`
hold both, in the layout that zoo writes; `bare/*.pth` are the state dicts alone, as released, of models that `config`
of `bare/expected.json` describes: one inside a pre-training model, one without its weight norm.
"""

from __future__ import annotations

import argparse
import datetime
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchaudio
from generator import waveform
from recording import UTTERANCE, describe, fill, write
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrize import remove_parametrizations

HERE = Path(__file__).resolve().parent
SYMBOLS = ["-", "|", *"ETAONIHSRD"]
TINY = {
    "extractor_mode": "group_norm",
    "extractor_conv_layer_config": [[8, 10, 5], *[[8, 3, 2]] * 4, *[[8, 2, 2]] * 2],
    "extractor_conv_bias": False,
    "encoder_embed_dim": 16,
    "encoder_projection_dropout": 0.1,
    "encoder_pos_conv_kernel": 128,
    "encoder_pos_conv_groups": 16,
    "encoder_num_layers": 2,
    "encoder_num_heads": 2,
    "encoder_attention_dropout": 0.1,
    "encoder_ff_interm_features": 24,
    "encoder_ff_interm_dropout": 0.0,
    "encoder_dropout": 0.1,
    "encoder_layer_norm_first": False,
    "encoder_layer_drop": 0.05,
    "aux_num_out": None,
}
LARGE = {"extractor_mode": "layer_norm", "extractor_conv_bias": True, "encoder_layer_norm_first": True}
# file -> family, factory, seed, whether its pipeline normalises, arguments
CHECKPOINTS: dict[str, tuple[str, str, int, bool, dict[str, Any]]] = {
    "torchaudio_wav2vec2.pt": ("wav2vec2", "wav2vec2_model", 141, False, {**TINY, "aux_num_out": len(SYMBOLS)}),
    "torchaudio_wavlm.pt": (
        "wavlm",
        "wavlm_model",
        142,
        True,
        {**TINY, **LARGE, "encoder_num_buckets": 16, "encoder_max_distance": 10},
    ),
}
# As in the factory `hubert_pretrain_base`, but small.
PRETRAINING = {
    "mask_prob": 0.8, "mask_selection": "static", "mask_other": 0.0, "mask_length": 10, "no_mask_overlap": False,
    "mask_min_space": 1, "mask_channel_prob": 0.0, "mask_channel_selection": "static", "mask_channel_other": 0.0,
    "mask_channel_length": 10, "no_mask_channel_overlap": False, "mask_channel_min_space": 1, "skip_masked": False,
    "skip_nomask": False, "num_classes": 5, "final_dim": 8, "feature_grad_mult": 0.1,
}  # fmt: skip
# The zoo's names for TINY.
CONFIG = {
    "conv_layers": TINY["extractor_conv_layer_config"],
    "num_layers": 2,
    "width": 16,
    "ffn_width": 24,
    "num_heads": 2,
}


def compute(model: nn.Module, normalize: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """The encoder's output for the utterance, and what its CTC head makes of it."""
    wave = torch.from_numpy(waveform(UTTERANCE))[None]
    if normalize:  # as torchaudio's pipelines do
        wave = F.layer_norm(wave, wave.shape)
    with torch.no_grad():
        out = model.eval()(wave)[0][0].numpy()
        if model.aux is None:
            return out, None
        aux, model.aux = model.aux, None
        last = model(wave)[0][0].numpy()
        model.aux = aux
    return last, out


def versions() -> dict[str, str]:
    """What made the data."""
    return {
        "distribution": "torchaudio",
        "version": torchaudio.__version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


def document(files: dict[str, Any]) -> dict[str, Any]:
    """The record beside the arrays."""
    return {
        "reference": versions(),
        "script": "tests/golden/make_torchaudio.py checkpoints",
        "date": datetime.date.today().isoformat(),
        "utterance": UTTERANCE,
        "files": files,
    }


def make_checkpoints(out: Path) -> None:
    """Writes the files and what torchaudio computes with them."""
    (out / "bare").mkdir(parents=True, exist_ok=True)
    files: dict[str, Any] = {}
    arrays: dict[str, Any] = {}
    for name, (family, factory, seed, normalize, arguments) in CHECKPOINTS.items():
        model = fill(getattr(torchaudio.models, factory)(**arguments), seed, "lively")
        content = {"factory": factory, "arguments": arguments, "normalize": normalize, "sample_rate": 16000}
        if arguments["aux_num_out"]:
            content["labels"] = SYMBOLS
        torch.save({**content, "state_dict": model.state_dict()}, out / name)
        checkpoint = torch.load(out / name, weights_only=True)
        again = getattr(torchaudio.models, checkpoint["factory"])(**checkpoint["arguments"])
        again.load_state_dict(checkpoint["state_dict"])
        last, logits = compute(again, normalize)
        arrays[f"{name}/last"] = last
        if logits is not None:
            arrays[f"{name}/logits"] = logits
        files[name] = {
            "about": f"state dict of {factory}, and its arguments",
            "family": family,
            "normalize": normalize,
            "config": content,
            "seed": seed,
            "scale": "lively",
            "state": describe(model),
        }
    write(out / "torchaudio_expected", document(files), arrays)

    files, arrays = {}, {}
    without_aux = {name: value for name, value in TINY.items() if name != "aux_num_out"}
    whole = fill(torchaudio.models.hubert_pretrain_model(**without_aux, **PRETRAINING), 143, "lively")
    folded = fill(torchaudio.models.wav2vec2_model(**TINY), 144, "lively")
    for name, family, model, encoder in (
        ("hubert_pretraining.pth", "hubert", whole, whole.wav2vec2),
        ("folded.pth", "wav2vec2", folded, folded),
    ):
        files[name] = {"family": family, "config": CONFIG, "seed": 143 + len(files), "scale": "lively"}
        files[name]["state"] = describe(model)
        arrays[f"{name}/last"] = compute(encoder, False)[0]
        if name == "folded.pth":
            remove_parametrizations(model.encoder.transformer.pos_conv_embed.conv, "weight")
            folded_last = compute(encoder, False)[0]
            assert np.abs(folded_last - arrays[f"{name}/last"]).max() < 1e-5
        torch.save(model.state_dict(), out / "bare" / name)
    assert all(np.isfinite(value).all() for value in arrays.values())
    write(out / "bare" / "expected", document(files), arrays)


def main(argv: Sequence[str] | None = None) -> None:
    """Command line of the maker."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["checkpoints"])
    parser.add_argument("--out", type=Path, help="output folder (default: its place in the repository)")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    make_checkpoints(arguments.out or HERE.parent / "data")


if __name__ == "__main__":
    main()
