"""Microsoft's class, wherever it was found, and files in its layout."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import make_microsoft

from tests.golden.compare import Comparison
from tests.golden.live.agreement import speech
from tests.golden.live.examples import Example

MODES = {"group": "default", "layer": "layer_norm"}


def fields(config: Any) -> dict[str, Any]:
    """The flat configuration."""
    said = {
        **make_microsoft.BASE,
        "extractor_mode": MODES[config.extractor_norm],
        "conv_feature_layers": str(list(config.conv_layers)),
        "conv_bias": config.conv_bias,
        "layer_norm_first": config.norm_first,
        "normalize": config.normalize,
        "encoder_layers": config.num_layers,
        "encoder_embed_dim": config.width,
        "encoder_ffn_embed_dim": config.ffn_width,
        "encoder_attention_heads": config.num_heads,
        "activation_dropout": 0.0,
        "dropout_input": 0.0,
        "conv_pos": config.pos_conv_kernel,
        "conv_pos_groups": config.pos_conv_groups,
    }
    if config.family == "wavlm":
        said |= {"relative_position_embedding": True, "gru_rel_pos": True}
        said |= {"num_buckets": config.relative_buckets, "max_distance": config.relative_max_distance}
    return said


def agree(module: types.ModuleType, example: Example, folder: Path) -> Comparison:
    """Compares one example with the class in a module."""
    config = make_microsoft.configure(module, fields(example.config))

    def build(double: bool) -> Any:
        model = make_microsoft.build(module, config, example.seed, example.scale)
        model = make_microsoft.whole_double(model) if double else model
        return model, make_microsoft.runner(model), make_microsoft.normaliser(config)

    return speech(example, folder, build, {"dialect": "microsoft", "config": config})
