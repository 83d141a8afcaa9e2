"""transformers: models from configurations of its own classes, folders as it writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import make_transformers
from torch import nn
from transformers import Wav2Vec2FeatureExtractor

from tests.golden.compare import Comparison
from tests.golden.live.agreement import speech
from tests.golden.live.examples import Example

make_transformers.prepare()
CLASSES = {family: name for name, family in make_transformers.FAMILIES.items()} | {"distilhubert": "Hubert"}


def fields(config: Any) -> dict[str, Any]:
    """config.json of a configuration."""
    channels, kernels, strides = (list(column) for column in zip(*config.conv_layers))
    said = {
        **make_transformers.NO_DROPOUT,
        "conv_dim": channels,
        "conv_kernel": kernels,
        "conv_stride": strides,
        "feat_extract_norm": config.extractor_norm,
        "conv_bias": config.conv_bias,
        "hidden_size": config.width,
        "intermediate_size": config.ffn_width,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "do_stable_layer_norm": config.norm_first,
        "num_conv_pos_embeddings": config.pos_conv_kernel,
        "num_conv_pos_embedding_groups": config.pos_conv_groups,
    }
    if config.adapter_width:
        said["adapter_attn_dim"] = config.adapter_width
    if config.family == "hubert":
        said["conv_pos_batch_norm"] = config.pos_conv_norm == "batch"
    if config.family == "distilhubert":
        said["feat_proj_layer_norm"] = False
    if config.family == "wavlm":
        said |= {"num_buckets": config.relative_buckets, "max_bucket_distance": config.relative_max_distance}
    if config.family == "data2vec":
        said |= {"conv_pos_kernel_size": config.pos_conv_kernel, "num_conv_pos_embeddings": config.pos_conv_depth}
        del said["feat_extract_norm"], said["do_stable_layer_norm"]
    if config.family == "wav2vec2_conformer":
        said |= {"hidden_act": "swish", "conformer_conv_dropout": 0.0}
        said |= {"position_embeddings_type": config.positions, "conv_depthwise_kernel_size": config.depthwise_kernel}
    return said


def agree(example: Example, folder: Path) -> Comparison:
    """Compares one example."""
    config = example.config
    said = fields(config)

    def build(double: bool) -> Any:
        model = make_transformers.build(CLASSES[config.family], said, example.seed, example.scale)
        model = model.double() if double else model
        run = make_transformers.runner(model, config.attention_mask)
        return model, run, make_transformers.normaliser(config.normalize)

    def save(model: nn.Module, folder: Path) -> Path:
        flags = {"do_normalize": config.normalize, "return_attention_mask": config.attention_mask}
        make_transformers.save(model, Wav2Vec2FeatureExtractor(**flags), folder)
        return folder

    return speech(example, folder, build, {}, save)


TWINS = dict.fromkeys(CLASSES, agree)
