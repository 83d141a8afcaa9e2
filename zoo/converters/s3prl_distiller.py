"""DistilHuBERT as s3prl writes it: `{"Distiller": state dict, "Config": {"distiller": {...}, ...}, ...}`.

The state dict has fairseq's keys. Facts from s3prl 0.4.18 `upstream/distiller` (Apache-2.0).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from zoo._registry import families
from zoo.converters import _fairseq_layout as layout
from zoo.converters._dialect import TOOLKITS_OWN, Checkpoint, Dialect, Export, Keys, Reading
from zoo.converters._fields import section
from zoo.converters._source import Source
from zoo.errors import CheckpointError, shown
from zoo.models._family import Config, is_one_of
from zoo.models._speech_encoder import SpeechEncoderConfig

# What s3prl's class looks at, and its defaults; the names are fairseq's, but for the convolutions'.
FIELDS: Mapping[str, Any] = {
    "extractor_mode": "default",
    "extractor_conv_feature_layers": "[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2",
    "conv_pos": 128,
    "conv_pos_groups": 16,
    "encoder_layers": 1,
    "encoder_embed_dim": 768,
    "encoder_ffn_embed_dim": 3072,
    "encoder_attention_heads": 12,
    "activation_fn": "gelu",
    "layer_norm_first": False,
    "dropout": 0.1,
    "attention_dropout": 0.1,
    "activation_dropout": 0.1,
    "encoder_layerdrop": 0.0,
}
RENAMED = {"conv_feature_layers": "extractor_conv_feature_layers"}
# Values under which the encoder is the one built here: the others mix an embedding of the task into its input.
REQUIRED: Mapping[str, tuple[str, ...]] = {
    "attention_type": ("original",),
    "task_emb_type": ("expand-last", "self-hidden", "none"),
}


def recognise(source: Source) -> bool:
    """Whether the top level holds a distilled model beside its configuration."""
    root = source.root
    return isinstance(root, Mapping) and isinstance(root.get("Distiller"), Mapping) and "Config" in root


def keys(config: Config) -> Iterator[Keys]:
    """How the distiller names the tensors of its model."""
    family = families()[config.family]
    if "s3prl_distiller" in family.fixed:
        yield Keys(rows=layout.rows(config, family, "s3prl_distiller"))


def read(source: Source) -> Reading:
    """Read a file of s3prl's distiller.

    Raises:
        CheckpointError: when its configuration is missing or of a model that is not supported.
    """
    whole = source.root["Config"]
    cfg = whole.get("distiller") if isinstance(whole, Mapping) else None
    if not isinstance(cfg, Mapping):
        raise CheckpointError("Config has no section distiller, which says how the model was built; give the original")
    for name, allowed in REQUIRED.items():
        if not is_one_of(value := cfg.get(name, allowed[0]), allowed):
            raise CheckpointError(f"{name} is {shown(value)}, which this version of zoo does not have")

    def get(name: str, default: Any) -> Any:
        own = RENAMED.get(name, name)
        return cfg.get(own, FIELDS[own]) if own in FIELDS else default

    family = families()["distilhubert"]
    fields = {"family": family.name, **layout.encoder_fields(get), **family.fixed["s3prl_distiller"]}
    config = SpeechEncoderConfig.from_dict(fields)
    return Reading(
        config=config,
        tensors=layout.tensors(source.root["Distiller"].items()),
        rows=layout.rows(config, family, "s3prl_distiller"),
        drops=(),
        source_config=whole,
    )


def write(checkpoint: Checkpoint) -> Export:
    """The encoder and its predictions; s3prl takes one without them for a model that predicts its own layers."""
    config: Any = checkpoint.config
    said = {RENAMED.get(name, name): value for name, value in layout.said_fields(config).items()}
    before = checkpoint.source_config("s3prl_distiller")
    cfg = {**section(before, "distiller"), **{name: value for name, value in said.items() if name in FIELDS}}
    if shape := checkpoint.axes("heads.output_layer.2.weight", 3):
        kind, (tasks, inner, final) = "expand-last", shape
        cfg |= {"final_dim": final, "out_layer_inter_dim": inner}
    else:
        kind, tasks = "self-hidden", config.num_layers + 1
    cfg |= {"task_emb_type": kind, "out_layer_type": kind, "n_tasks": tasks}
    predicted = cfg.get("pred_layer_id")
    if not isinstance(predicted, list) or len(predicted) != tasks:
        cfg["pred_layer_id"] = list(range(tasks))
    rows = layout.rows(config, families()[config.family], "s3prl_distiller")
    rows = tuple(row for row in rows if row.target != "masked_spec_embed")
    written = layout.write_model(checkpoint, cfg, rows, {"output_layer"}, "s3prl's distilled model")
    return Export(
        root={"Distiller": written.tensors, "Config": {**before, "distiller": cfg}},
        written=written.written,
        dropped=written.dropped,
    )


DIALECT = Dialect(
    name="s3prl_distiller",
    recognise=recognise,
    read=read,
    keys=keys,
    target="s3prl",
    holds=lambda config: config.family == "distilhubert",
    write=write,
    unsaid=TOOLKITS_OWN | {"input_dropout", "symbols"},
)
