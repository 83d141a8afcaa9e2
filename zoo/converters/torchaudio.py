"""torchaudio's models: a state dict and the arguments of the factory that builds its module, in one file.

A state dict of torchaudio's says nothing of its configuration, which stands in the code of its bundles. So the zoo
writes and reads `{"factory": ..., "arguments": {...}, "state_dict": {...}, "normalize": ..., "sample_rate": ...}`, from
which `getattr(torchaudio.models, file["factory"])(**file["arguments"]).load_state_dict(file["state_dict"])` makes the
module. The state dict alone, as the bundles have it, is read with a configuration of the registry (`_bare.py`).
Facts from torchaudio 2.11 (BSD-2-Clause): `models/wav2vec2/{model,components,wavlm_attention}.py`,
`pipelines/_wav2vec2`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from zoo._registry import families
from zoo.converters._dialect import TOOLKITS_OWN, Checkpoint, Dialect, Export, Keys, Reading
from zoo.converters._fields import parse_conv_layers
from zoo.converters._rows import Row, invert
from zoo.converters._source import Source
from zoo.converters._state_dict import join, tensors
from zoo.errors import CheckpointError, shown
from zoo.models._family import Config
from zoo.models._speech_encoder import SpeechEncoderConfig

FIELDS = {  # of every factory; the factory's name -> the zoo's
    "extractor_conv_bias": "conv_bias",
    "encoder_embed_dim": "width",
    "encoder_projection_dropout": "input_dropout",
    "encoder_pos_conv_kernel": "pos_conv_kernel",
    "encoder_pos_conv_groups": "pos_conv_groups",
    "encoder_num_layers": "num_layers",
    "encoder_num_heads": "num_heads",
    "encoder_attention_dropout": "attention_dropout",
    "encoder_ff_interm_features": "ffn_width",
    "encoder_ff_interm_dropout": "activation_dropout",
    "encoder_dropout": "dropout",
    "encoder_layer_norm_first": "norm_first",
    "encoder_layer_drop": "layerdrop",
}
BIAS_FIELDS = {"encoder_num_buckets": "relative_buckets", "encoder_max_distance": "relative_max_distance"}
# The factory of each family is in `Family.names`; these are the families of files that do not name one.
FACTORIES = {"wav2vec2_model": ("wav2vec2", FIELDS), "wavlm_model": ("wavlm", FIELDS | BIAS_FIELDS)}
EXTRACTOR_MODES = {"group_norm": "group", "layer_norm": "layer"}

TRANSFORMER = "encoder.transformer."
LAYER = TRANSFORMER + "layers.{n}."
ROWS = (
    Row("feature_extractor.conv_layers.{rest}", "feature_extractor.conv_layers.{rest}"),
    Row("encoder.feature_projection.{rest}", "feature_projection.{rest}"),
    Row(TRANSFORMER + "pos_conv_embed.conv.parametrizations.weight.original0", "encoder.pos_conv_embed.conv.weight_g"),
    Row(TRANSFORMER + "pos_conv_embed.conv.parametrizations.weight.original1", "encoder.pos_conv_embed.conv.weight_v"),
    Row(TRANSFORMER + "pos_conv_embed.conv.{wn}", "encoder.pos_conv_embed.conv.{wn}"),
    Row(TRANSFORMER + "layer_norm.{wb}", "encoder.layer_norm.{wb}"),
    Row(LAYER + "layer_norm.{wb}", "encoder.layers.{n}.layer_norm.{wb}"),
    Row(LAYER + "final_layer_norm.{wb}", "encoder.layers.{n}.final_layer_norm.{wb}"),
    Row(LAYER + "feed_forward.{rest}", "encoder.layers.{n}.feed_forward.{rest}"),
)
ATTENTION_ROWS = (Row(LAYER + "attention.{qkvo}_proj.{wb}", "encoder.layers.{n}.attention.{qkvo}_proj.{wb}"),)
GATED_ATTENTION_ROWS = (  # in torch's own attention module, which stacks three projections into one
    *(
        Row(f"{LAYER}attention.attention.in_proj_{{wb}}[{i}]", f"encoder.layers.{{n}}.attention.{part}_proj.{{wb}}")
        for i, part in enumerate("qkv")
    ),
    Row(LAYER + "attention.attention.out_proj.{wb}", "encoder.layers.{n}.attention.out_proj.{wb}"),
    Row(LAYER + "attention.gru_rel_pos_linear.{wb}", "encoder.layers.{n}.attention.gru_rel_pos_linear.{wb}"),
    Row(LAYER + "attention.gru_rel_pos_const", "encoder.layers.{n}.attention.gru_rel_pos_const"),
    Row(LAYER + "attention.rel_attn_embed.weight", "encoder.layers.{n}.attention.rel_attn_embed.weight"),
)
HEAD_ROWS = (Row("aux.{wb}", "heads.ctc_proj.{wb}"),)
# Of `hubert_pretrain_model`, around the encoder.
PRETRAINING = "wav2vec2."
PRETRAINING_ROWS = (
    Row("mask_generator.mask_embedding", "masked_spec_embed"),
    Row("logit_generator.label_embeddings", "heads.label_embs_concat"),
    Row("logit_generator.final_proj.{wb}", "heads.final_proj.{wb}"),
)


def holds(config: Config) -> bool:
    """Whether there is a factory for a configuration's family."""
    return "torchaudio" in families()[config.family].names


def keys(config: Config) -> Iterator[Keys]:
    """How a state dict of torchaudio's names the tensors of a model: inside a pre-training model, or alone."""
    if isinstance(config, SpeechEncoderConfig) and holds(config):
        rows = (*ROWS, *(GATED_ATTENTION_ROWS if config.relative_buckets else ATTENTION_ROWS), *HEAD_ROWS)
        yield Keys(rows=(*(Row(PRETRAINING + row.source, row.target) for row in rows), *PRETRAINING_ROWS))
        yield Keys(rows=rows)


def recognise(source: Source) -> bool:
    """Whether the top level has a state dict beside a factory and its arguments."""
    root = source.root
    return (
        isinstance(root, Mapping)
        and "factory" in root
        and isinstance(root.get("arguments"), Mapping)
        and isinstance(root.get("state_dict"), Mapping)
    )


def read(source: Source) -> Reading:
    """Read a state dict with the arguments of its factory.

    Raises:
        CheckpointError: when the factory or one of its arguments is not known.
    """
    root: Mapping[str, Any] = source.root
    factory, arguments = root["factory"], root["arguments"]
    if not isinstance(factory, str) or factory not in FACTORIES:
        raise CheckpointError(f"its factory is {shown(factory)}; supported are {', '.join(FACTORIES)}")
    family, fields = FACTORIES[factory]
    mode, stack = arguments.get("extractor_mode"), arguments.get("extractor_conv_layer_config")
    if not isinstance(mode, str) or mode not in EXTRACTOR_MODES:
        raise CheckpointError(f"extractor_mode is {shown(mode)}; expected one of {', '.join(EXTRACTOR_MODES)}")
    if missing := [name for name in fields if name not in arguments]:
        raise CheckpointError(f"its arguments lack {missing[0]}, which {factory} insists on")
    config = SpeechEncoderConfig.from_dict(
        {
            "family": _family(root.get("family", family), factory),
            "extractor_norm": EXTRACTOR_MODES[mode],
            **({} if stack is None else {"conv_layers": parse_conv_layers(stack)}),
            **{ours: arguments[theirs] for theirs, ours in fields.items()},
            "normalize": root.get("normalize", False),
            "sample_rate": root.get("sample_rate", 16000),
            "padding_rule": "length",
            "symbols": root.get("labels"),
        }
    )
    found = tensors(root["state_dict"].items())
    outputs = found["aux.weight"].shape[0] if "aux.weight" in found and found["aux.weight"].shape else None
    if (said := arguments.get("aux_num_out")) != outputs:
        raise CheckpointError(
            f"aux_num_out is {shown(said)}, but aux.weight has {outputs or 'no'} outputs; they must agree"
        )
    return Reading(
        config=config,
        tensors=found,
        rows=list(keys(config))[-1].rows,
        drops=(),
        source_config={name: value for name, value in root.items() if name != "state_dict"},
    )


def _family(name: Any, factory: str) -> str:
    found = families().get(name) if isinstance(name, str) else None
    if found is None or factory not in found.names.get("torchaudio", ()):
        raise CheckpointError(f"its family is {shown(name)}, of which {factory} builds none")
    return found.name


def write(checkpoint: Checkpoint) -> Export:
    """A state dict and the arguments of its factory.

    Pre-training heads have no place in torchaudio's model, nor has the mask embedding.
    """
    config: Any = checkpoint.config
    tensors = checkpoint.tensors
    (factory,) = families()[config.family].names["torchaudio"]
    mode = {ours: theirs for theirs, ours in EXTRACTOR_MODES.items()}[config.extractor_norm]
    written = invert(list(keys(config))[-1].rows, tensors)
    head = checkpoint.shape("heads.ctc_proj.weight")
    if head is None or "heads.ctc_proj.bias" not in tensors:  # `aux` is a linear layer with its bias
        head = None
        written = {name: key for name, key in written.items() if not name.startswith("heads.")}
    return Export(
        root={
            "factory": factory,
            "arguments": {
                "extractor_mode": mode,
                "extractor_conv_layer_config": [list(block) for block in config.conv_layers],
                **{theirs: getattr(config, ours) for theirs, ours in FACTORIES[factory][1].items()},
                "aux_num_out": head[0] if head else None,
            },
            "family": config.family,
            "labels": list(config.symbols) if config.symbols is not None else None,
            "normalize": config.normalize,
            "sample_rate": config.sample_rate,
            "state_dict": join({key: tensors[name] for name, key in written.items()}),
        },
        written=written,
        dropped={
            name: "torchaudio's model has no mask embedding"
            if name == "masked_spec_embed"
            else "torchaudio's model has no such head"
            if name.startswith("heads.")
            else "torchaudio's model has no such parameter"
            for name in tensors
            if name not in written
        },
    )


DIALECT = Dialect(
    name="torchaudio",
    recognise=recognise,
    read=read,
    keys=keys,
    target="torchaudio",
    holds=holds,
    write=write,
    # Its encoders share the rule for padded frames, and its bundles torch's layer norm over the waveform.
    unsaid=TOOLKITS_OWN,
)
