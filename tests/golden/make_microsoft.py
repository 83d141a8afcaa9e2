"""Makes the WavLM and UniSpeech-SAT part of the golden data with Microsoft's own class, and checkpoints in its layout.

Needs torch, NumPy, soundfile and Microsoft's two files, `WavLM.py` and `modules.py` (README.md beside this file says
where they are from); runs outside the project's environment:

    python tests/golden/make_microsoft.py golden --source DIR         # data/{wavlm,unispeech_sat}_*.{json,npz}
    python tests/golden/make_microsoft.py checkpoints --source DIR    # ../data/{wavlm,unispeech_sat}.pt and expected

Each takes `--out DIR`. UniSpeech-SAT is distributed for the same class, with `relative_position_embedding` off.
"""

from __future__ import annotations

import hashlib
import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
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
    entropy,
    fill,
    in_double,
    pad,
    provenance,
    state_rms,
    torch_attention,
    write,
    write_case,
)
from torch import Tensor, nn
from torch.nn import functional as F

HERE = Path(__file__).resolve().parent
SHA256 = {
    "WavLM.py": "c39e65f49c9027b330519c30a576700f4ef2e74ccda52f7f60f259d3aad0d343",
    "modules.py": "7a06a14a7dc95c5f65cd6b09ed126013821512489dcfec2e58bd8b544ce46656",
}


def import_source(folder: Path) -> types.ModuleType:
    """Imports Microsoft's module, if it is the one that the data was made with."""
    for name, digest in SHA256.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest, f"another {name}"
    sys.path.insert(0, str(folder))
    import WavLM

    return WavLM


def conv_layers(channels: int) -> str:
    """The seven convolutions of every released model, with fewer channels, in fairseq's notation."""
    return f"[({channels},10,5)] + [({channels},3,2)] * 4 + [({channels},2,2)] * 2"


BASE = {
    "extractor_mode": "default",
    "conv_feature_layers": conv_layers(16),
    "layer_norm_first": False,
    "normalize": False,
    "encoder_layers": 2,
    "encoder_embed_dim": 32,
    "encoder_ffn_embed_dim": 64,
    "encoder_attention_heads": 4,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "encoder_layerdrop": 0.0,
}
LARGE = {
    "extractor_mode": "layer_norm",
    "conv_feature_layers": conv_layers(24),
    "layer_norm_first": True,
    "normalize": True,
}
GATED = {"relative_position_embedding": True, "gru_rel_pos": True, "num_buckets": 320, "max_distance": 800}
# With 15 frames at most, 320 buckets are one bucket a distance. Of 16 there are four exact ones in each direction, then
# logarithmic ones, then everything beyond a distance of 10 in the last.
FEW_BUCKETS = {"num_buckets": 16, "max_distance": 10}

# Seeds are those with little noise: among thirty for WavLM, whose gate has small gradients, among six for the others.
CASES: dict[str, tuple[str, int, dict[str, Any]]] = {
    "wavlm_post_norm": ("wavlm", 311, {**BASE, **GATED}),
    "wavlm_pre_norm": ("wavlm", 52, {**BASE, **LARGE, **GATED, **FEW_BUCKETS}),
    "unispeech_sat_post_norm": ("unispeech_sat", 53, BASE),
    "unispeech_sat_pre_norm": ("unispeech_sat", 34, {**BASE, **LARGE}),
}


def configure(source: types.ModuleType, fields: dict[str, Any]) -> dict[str, Any]:
    """Every field of Microsoft's configuration as a flat dict, the way the released files hold it."""
    return dict(vars(source.WavLMConfig(fields)))


def build(source: types.ModuleType, config: dict[str, Any], seed: int, scale: str) -> nn.Module:
    """Builds the model and gives it generated weights."""
    return fill(source.WavLM(source.WavLMConfig(config)), seed, scale)


def runner(model: nn.Module) -> Run:
    """Runs Microsoft's feature extraction and records its stages with hooks."""

    def run(source: Tensor, padding_mask: Tensor | None) -> Stages:
        seen: dict[str, Tensor] = {}
        inputs: list[Tensor] = []
        outputs: list[Tensor] = []
        # Clones, because padded frames of the projection are set to zero in place afterwards.
        hooks = [
            model.feature_extractor.register_forward_hook(
                lambda module, args, output: seen.update(conv=output.transpose(1, 2).clone())
            ),
            model.post_extract_proj.register_forward_hook(
                lambda module, args, output: seen.update(projection=output.clone())
            ),
            model.encoder.layers[0].register_forward_pre_hook(lambda module, args: inputs.append(args[0])),
        ]
        hooks += [
            layer.register_forward_hook(lambda module, args, output: outputs.append(output[0]))
            for layer in model.encoder.layers
        ]
        try:
            final, frame_mask = model.extract_features(source, padding_mask=padding_mask, mask=False)
        finally:
            for hook in hooks:
                hook.remove()
        states = [state.transpose(0, 1) for state in (inputs[0], *outputs[:-1])]
        return Stages(seen["conv"], seen["projection"], [*states, final], frame_mask)

    return run


def normaliser(config: dict[str, Any]) -> Callable[[Tensor], Tensor]:
    """What the module's README does to an utterance (S,) if the file's `normalize` is on."""
    return lambda wave: F.layer_norm(wave, wave.shape) if config["normalize"] else wave


def check_stages(model: nn.Module, config: dict[str, Any]) -> None:
    """Proves that the hooks see what the module returns: whole encoder, early exits."""
    prepare, run = normaliser(config), runner(model)
    source, padding_mask = pad([prepare(torch.from_numpy(waveform(spec))) for spec in UTTERANCES])
    with torch.no_grad():
        for batch, mask in ((source, padding_mask), (source[1:2], None)):
            stages = run(batch, mask)
            for layer in range(1, len(stages.states) - 1):
                got, _ = model.extract_features(batch, padding_mask=mask, mask=False, output_layer=layer)
                assert torch.equal(got, stages.states[layer])
            (_, results), _ = model.extract_features(
                batch, padding_mask=mask, mask=False, output_layer=len(stages.states) - 1, ret_layer_results=True
            )
            states = [state.transpose(0, 1) for state, _ in results]
            if config["layer_norm_first"]:
                states[-1] = model.encoder.layer_norm(states[-1])
            assert all(torch.equal(got, state) for got, state in zip(states, stages.states, strict=True))


def whole_double(model: nn.Module) -> nn.Module:
    """The same model in float64, also inside the norms and GELUs that it computes in float32 whatever the input."""
    for layer in model.encoder.layers:
        layer.activation_fn = F.gelu
    return in_double(model)


def health(model: nn.Module, config: dict[str, Any], arrays: dict[str, Any]) -> dict[str, Any]:
    """Whether the case can see what it is for: sharpness of attention, and what the bias and its gate change."""
    run, prepare = runner(model), normaliser(config)
    longest = prepare(torch.from_numpy(waveform(UTTERANCES[1])))[None]
    with torch.no_grad(), torch_attention() as weights:
        whole = run(longest, None).states[-1]
    result: dict[str, Any] = {
        "attention_entropy": [entropy(layer) for layer in weights],
        "state_rms": state_rms(arrays, config["encoder_layers"]),
    }
    if not config["relative_position_embedding"]:
        return result
    attention = model.encoder.layers[0].self_attn
    distances = torch.arange(whole.shape[1])
    buckets = attention._relative_positions_bucket(torch.cat([-distances, distances])).unique().tolist()
    result["buckets"] = buckets
    if config["max_distance"] < whole.shape[1]:
        assert set(buckets) == set(range(config["num_buckets"])) - {config["num_buckets"] // 2}
    with torch.no_grad():
        for layer in model.encoder.layers:
            layer.self_attn.gru_rel_pos = False
        result["without_gate"] = round(float((run(longest, None).states[-1] - whole).abs().max()), 3)
        attention.relative_attention_bias.weight.zero_()
        result["without_bias"] = round(float((run(longest, None).states[-1] - whole).abs().max()), 3)
    assert min(result["without_gate"], result["without_bias"]) > 1e-2
    return result


def versions() -> dict[str, Any]:
    """What made the data."""
    commit = "768a3c873f598bb9b4d4dfb9267b099e35f8fe56"
    about = "WavLM.py and modules.py of microsoft/unilm, folder wavlm"
    return recording.versions(about, commit=commit, sha256=SHA256)


def make_golden(out: Path, source: Path) -> None:
    """Writes `<case>_<scale>.json` and `.npz` for every case and both scales."""
    module = import_source(source)
    for case, (family, seed, fields) in CASES.items():
        config = configure(module, fields)
        prepare = normaliser(config)
        for scale in ("usual", "lively"):
            model = build(module, config, seed, scale)
            check_stages(model, config)
            arrays, frames = compute(model, runner(model), prepare, torch.float32)
            exact_model = whole_double(build(module, config, seed, scale))
            exact, exact_frames = compute(exact_model, runner(exact_model), prepare, torch.float64)
            assert frames == exact_frames
            assert frames["padded"] != frames["single"]  # or the two rules for padded frames would look the same
            about = {
                "case": f"{case}_{scale}",
                "family": family,
                "dialect": "microsoft",
                **provenance(versions(), "make_microsoft.py golden"),
                "notes": "the module as it is, nothing patched; dropouts 0, eval mode",
                "config": config,
                "normalize": config["normalize"],
                "seed": seed,
                "scale": scale,
            }
            write_case(
                out, about, model, arrays, exact, frames, health(build(module, config, seed, scale), config, arrays)
            )


# --------------------------------------------------------------------------------------------------------------------
# Tiny checkpoints

TINY = {
    "conv_feature_layers": conv_layers(8),
    "encoder_layers": 1,
    "encoder_embed_dim": 16,
    "encoder_ffn_embed_dim": 16,
    "encoder_attention_heads": 2,
}
CHECKPOINTS = {
    "wavlm.pt": ("wavlm", 131, "pre-norm, normalised", {**BASE, **LARGE, **GATED, **TINY}),
    "unispeech_sat.pt": ("unispeech_sat", 132, "group norm, post-norm", {**BASE, **TINY}),
}


def make_checkpoints(out: Path, source: Path) -> None:
    """Writes both checkpoints and what the module computes with them."""
    module = import_source(source)
    documents: dict[str, Any] = {}
    arrays: dict[str, Any] = {}
    for name, (family, seed, about, fields) in CHECKPOINTS.items():
        config = configure(module, fields)
        torch.save({"cfg": config, "model": build(module, config, seed, "lively").state_dict()}, out / name)
        # Read back as the module's README says.
        checkpoint = torch.load(out / name, weights_only=True)
        model = module.WavLM(module.WavLMConfig(checkpoint["cfg"]))
        model.load_state_dict(checkpoint["model"])
        wave = normaliser(config)(torch.from_numpy(waveform(UTTERANCE)))[None]
        with torch.no_grad():
            arrays[f"{name}/last"] = model.eval().extract_features(wave)[0][0].numpy()
        documents[name] = {
            "about": f"cfg a flat dict, model a state dict; {about}",
            "family": family,
            "normalize": config["normalize"],
            "config": config,
            "seed": seed,
            "scale": "lively",
            "state": describe(model),
        }
        print(f"{name}: {(out / name).stat().st_size / 1000:.0f} kB")
    document = {
        **provenance(versions(), "make_microsoft.py checkpoints"),
        "utterance": UTTERANCE,
        "files": documents,
    }
    assert all(np.isfinite(value).all() for value in arrays.values())
    write(out / "microsoft_expected", document, arrays)


def main(argv: Sequence[str] | None = None) -> None:
    """Command line of the maker."""
    command_line(
        __doc__,
        {"golden": (make_golden, HERE / "data"), "checkpoints": (make_checkpoints, HERE.parent / "data")},
        argv,
        source="folder with WavLM.py and modules.py",
    )


if __name__ == "__main__":
    main()
