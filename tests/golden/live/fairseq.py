"""fairseq: models that its tasks build, files in its trainer's layout. The makers say what of it needs help."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import make_conformer
import make_data2vec
import make_fairseq
import make_mms

from tests.golden.compare import Comparison
from tests.golden.live.agreement import speech
from tests.golden.live.examples import Example

make_fairseq.prepare()
make_conformer.tolerate()
MODES = {"group": "default", "layer": "layer_norm"}
POSITIONS = {"relative": "rel_pos", "rotary": "rope"}


def fields(config: Any) -> dict[str, Any]:
    """The model's section of a configuration."""
    said = {
        "_name": "wav2vec2",
        **make_fairseq.NO_DROPOUT,
        "final_dim": 16,
        "extractor_mode": MODES[config.extractor_norm],
        "conv_feature_layers": str(list(config.conv_layers)),
        "conv_bias": config.conv_bias,
        "layer_norm_first": config.norm_first,
        "encoder_layers": config.num_layers,
        "encoder_embed_dim": config.width,
        "encoder_ffn_embed_dim": config.ffn_width,
        "encoder_attention_heads": config.num_heads,
        "conv_pos": config.pos_conv_kernel * config.pos_conv_depth,
        "conv_pos_groups": config.pos_conv_groups,
    }
    if config.family in ("wav2vec2", "wav2vec2_conformer"):
        said |= make_fairseq.QUANTIZER
    if config.adapter_width:
        said |= {**make_mms.ADAPTED, "adp_dim": config.adapter_width}
    if config.family == "hubert":
        said |= {"_name": "hubert", "conv_pos_batch_norm": config.pos_conv_norm == "batch"}
    if config.family == "data2vec":
        del said["final_dim"]
        said |= {"_name": "data2vec_audio", "pos_conv_depth": config.pos_conv_depth, "average_top_k_layers": 1}
    if config.family == "wav2vec2_conformer":
        said |= {"layer_type": "conformer", "attn_type": "espnet", "pos_enc_type": POSITIONS[config.positions]}
        said["depthwise_conv_kernel_size"] = config.depthwise_kernel
    return said


def agree(example: Example, folder: Path) -> Comparison:
    """Compares one example of the classes that share wav2vec 2.0's encoder."""
    drawn = example.config
    task = make_fairseq.HUBERT_TASK if drawn.family == "hubert" else make_fairseq.WAV2VEC2_TASK
    config = make_data2vec.configure(fields(drawn), {**task, "normalize": drawn.normalize})

    def build(double: bool) -> Any:
        _, model = make_fairseq.build(config, example.seed, example.scale)
        if double:
            model = make_data2vec.whole_double(model)
        if drawn.adapter_width:
            make_mms.first_adapter(model)
        return make_fairseq.runner(model, drawn.normalize)

    return speech(example, folder, build, {"dialect": "fairseq", "config": make_fairseq.plain(config)})


TWINS = dict.fromkeys(("wav2vec2", "hubert", "data2vec", "wav2vec2_conformer"), agree)
