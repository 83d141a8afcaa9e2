"""torchaudio: models that its factories build, their state dicts beside the factories' arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torchaudio
from recording import Run, Stages, fill
from torch import Tensor, nn
from torch.nn import functional as F

from tests.golden.compare import Comparison
from tests.golden.live.agreement import speech
from tests.golden.live.examples import Example

MODES = {"group": "group_norm", "layer": "layer_norm"}


def arguments(config: Any) -> dict[str, Any]:
    """What the factory is called with."""
    said = {
        "extractor_mode": MODES[config.extractor_norm],
        "extractor_conv_layer_config": [list(block) for block in config.conv_layers],
        "extractor_conv_bias": config.conv_bias,
        "encoder_embed_dim": config.width,
        "encoder_projection_dropout": 0.0,
        "encoder_pos_conv_kernel": config.pos_conv_kernel,
        "encoder_pos_conv_groups": config.pos_conv_groups,
        "encoder_num_layers": config.num_layers,
        "encoder_num_heads": config.num_heads,
        "encoder_attention_dropout": 0.0,
        "encoder_ff_interm_features": config.ffn_width,
        "encoder_ff_interm_dropout": 0.0,
        "encoder_dropout": 0.0,
        "encoder_layer_norm_first": config.norm_first,
        "encoder_layer_drop": 0.0,
        "aux_num_out": None,
    }
    if config.family == "wavlm":
        said |= {"encoder_num_buckets": config.relative_buckets, "encoder_max_distance": config.relative_max_distance}
    return said


def runner(model: nn.Module, norm_first: bool) -> Run:
    """Runs a model and records its stages; its list of features has neither the first nor the norm after the last.

    Lengths are said only where something is padded: its WavLM refuses them.
    """
    transformer = model.encoder.transformer

    def run(source: Tensor, padding_mask: Tensor | None) -> Stages:
        seen: dict[str, Tensor] = {}
        hooks = [
            model.feature_extractor.register_forward_hook(
                lambda module, args, output: seen.update(conv=output[0].clone())
            ),
            model.encoder.feature_projection.register_forward_hook(
                lambda module, args, output: seen.update(projection=output.clone())
            ),
            transformer.layers[0].register_forward_pre_hook(lambda module, args: seen.update(entry=args[0])),
        ]
        padded = padding_mask is not None and bool(padding_mask.any())
        counts = (~padding_mask).sum(1) if padded else None
        try:
            states, counts = model.extract_features(source, counts)
        finally:
            for hook in hooks:
                hook.remove()
        if norm_first:
            states[-1] = transformer.layer_norm(states[-1])
        frames = None if counts is None else torch.arange(states[0].shape[1]) >= counts[:, None]
        return Stages(seen["conv"], seen["projection"], [seen["entry"], *states], frames)

    return run


def agree(example: Example, folder: Path) -> Comparison:
    """Compares one example."""
    config = example.config
    factory, said = "wavlm_model" if config.family == "wavlm" else "wav2vec2_model", arguments(config)

    def build(double: bool) -> Any:
        model = fill(getattr(torchaudio.models, factory)(**said), example.seed, example.scale)

        def prepare(wave: Tensor) -> Tensor:
            """As its pipelines do it."""
            return F.layer_norm(wave, wave.shape) if config.normalize else wave

        return model.double() if double else model, runner(model, config.norm_first), prepare

    def save(model: nn.Module, folder: Path) -> Path:
        content = {"factory": factory, "arguments": said, "family": config.family, "normalize": config.normalize}
        torch.save({**content, "sample_rate": 16000, "state_dict": model.state_dict()}, folder / "model.pt")
        return folder / "model.pt"

    return speech(example, folder, build, {}, save)


TWINS = dict.fromkeys(("wav2vec2", "hubert", "wavlm"), agree)
