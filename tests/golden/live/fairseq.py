"""fairseq: models that its tasks build, files in its trainer's layout. The makers say what of it needs help.

data2vec 2.0 takes two classes from timm; where that cannot be imported, it is not compared.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import make_conformer
import make_data2vec
import make_fairseq
import make_mms
import make_wav2vec_u
import torch
from recording import describe, fill

from tests.golden import test_wav2vec_u as wav2vec_u
from tests.golden.compare import Comparison
from tests.golden.live.agreement import (
    Measured,
    config_differences,
    least_unit,
    own_noise,
    plain,
    speech,
    together,
)
from tests.golden.live.examples import Example
from zoo.models.wav2vec_u import SEGMENTATION_FIELDS

make_fairseq.prepare()
make_conformer.tolerate()
TIMM = importlib.util.find_spec("timm") is not None
if TIMM:
    import make_data2vec2

    make_data2vec2.load_classes()
UNSUPERVISED, DECODER = make_wav2vec_u.load_module(), make_wav2vec_u.load_decoder()
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


def agree_second(example: Example, folder: Path) -> Comparison:
    """Compares one example of data2vec 2.0."""
    drawn = example.config
    model_fields = {
        **make_data2vec2.MODEL,
        "depth": drawn.num_layers - drawn.prenet_layers,
        "embed_dim": drawn.width,
        "num_heads": drawn.num_heads,
        "mlp_ratio": drawn.ffn_width / drawn.width,
        "skip_ema": True,
    }
    audio = {
        **make_data2vec2.AUDIO,
        "feature_encoder_spec": str(list(drawn.conv_layers)),
        "prenet_depth": drawn.prenet_layers,
        "num_alibi_heads": drawn.num_heads,
        "conv_pos_depth": drawn.pos_conv_depth,
        "conv_pos_width": drawn.pos_conv_kernel * drawn.pos_conv_depth,
        "conv_pos_groups": drawn.pos_conv_groups,
    }
    task = {**make_data2vec2.TASK, "normalize": drawn.normalize}
    config = make_data2vec2.configure(model_fields, audio, {**make_data2vec2.DECODER, "decoder_groups": 1}, task)

    def build(double: bool) -> Any:
        _, model = make_data2vec2.build(config, example.scale, example.seed)
        model, run, _ = make_data2vec2.runner(make_data2vec2.whole_double(model) if double else model)
        return model, run, make_fairseq.runner(model, drawn.normalize)[2]

    return speech(example, folder, build, {"dialect": "fairseq", "config": make_fairseq.plain(config)})


def agree_unsupervised(example: Example, folder: Path) -> Comparison:
    """Compares one example of wav2vec-U: generator, head, discriminator, phones."""
    drawn, lengths = example.config, example.utterances
    fields = {
        name: getattr(drawn, name)
        for name in drawn.__dataclass_fields__
        if name.startswith(("generator_", "discriminator_", "blank_")) and name != "discriminator_norm"
    }
    fields |= {
        "generator_batch_norm": int(drawn.generator_batch_norm),
        "input_dim": drawn.input_dim,
        "mmi_weight": 0.5 if drawn.auxiliary_dim else 0.0,
        "target_dim": drawn.auxiliary_dim or 64,
        **{f"discriminator_{norm}_norm": drawn.discriminator_norm == norm for norm in ("weight", "spectral")},
    }
    segmentation = {"type": drawn.segmentation, **{name: getattr(drawn, name) for name in SEGMENTATION_FIELDS}}
    config = make_wav2vec_u.make_config(UNSUPERVISED, fields, segmentation)
    dictionary = make_wav2vec_u.make_dictionary(drawn.symbols[4:])

    def compute(dtype: torch.dtype) -> tuple[Any, dict[str, Any]]:
        model = fill(UNSUPERVISED.Wav2vec_U(config, dictionary), example.seed, example.scale).to(dtype)
        return model, plain(make_wav2vec_u.compute(model, example.seed, dtype, lengths))

    (model, values), (_, exact) = compute(torch.float32), compute(torch.float64)
    items = make_wav2vec_u.features(example.seed, drawn.input_dim, lengths)
    facts = {
        "config": make_wav2vec_u.plain(config),
        "symbols": dictionary.symbols,
        "seed": example.seed,
        "scale": example.scale,
        "random_seed": make_wav2vec_u.SEED,
        "state": describe(model),
        "transcripts": make_wav2vec_u.transcripts(UNSUPERVISED, model, dictionary, DECODER, example.seed, lengths),
    }

    def case(arrays: dict[str, Any], dtype: torch.dtype) -> wav2vec_u.Case:
        return wav2vec_u.Case(facts, {**arrays, **{f"feat{i}": x.to(dtype).numpy() for i, x in enumerate(items)}})

    found = case(values, torch.float32).model(folder)
    same = config_differences(found.config, drawn)
    noise = own_noise({key: value for key, value in values.items() if value.dtype != bool}, exact, {})
    rounded = Measured(noise=noise, least=least_unit(values))
    single = wav2vec_u.compare(case(values, torch.float32), found, rounded)
    double = wav2vec_u.compare(case(exact, torch.float64), found.double(), Measured(least=least_unit(exact)))
    return together(same, single, double)


TWINS = dict.fromkeys(("wav2vec2", "hubert", "data2vec", "wav2vec2_conformer"), agree)
TWINS |= {"wav2vec_u": agree_unsupervised, **({"data2vec2": agree_second} if TIMM else {})}
