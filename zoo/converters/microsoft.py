"""WavLM and UniSpeech-SAT as Microsoft distributes them: `{"cfg": {...}, "model": {...}}`, keys as fairseq's.

The two families share the layout; only the relative position bias tells them apart. s3prl takes such files as they are.
Facts from microsoft/UniSpeech `WavLM/WavLM.py` (40d3227, share-alike: read for facts) and s3prl's loader (Apache-2.0).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from zoo._registry import families
from zoo.converters import _fairseq_layout as layout
from zoo.converters._dialect import TOOLKITS_OWN, Checkpoint, Dialect, Export, Keys, Reading
from zoo.converters._source import Source
from zoo.errors import CheckpointError
from zoo.models._family import Config, typed
from zoo.models._speech_encoder import SpeechEncoderConfig

FAMILIES = {True: "wavlm", False: "unispeech_sat"}  # by whether the position bias is on

# Fields of the shared encoder that Microsoft's class does not know.
LACKS = frozenset({"conv_pos_batch_norm", "pos_conv_depth", *layout.ADAPTER_FIELDS})


def recognise(source: Source) -> bool:
    """Whether the top level is a flat configuration and a state dict, without a trainer's state."""
    root = source.root
    return (
        isinstance(root, Mapping)
        and isinstance(root.get("cfg"), Mapping)
        and isinstance(root.get("model"), Mapping)
        and "extractor_mode" in root["cfg"]
        and not {"args", "optimizer_history", "extra_state"} & root.keys()
    )


def keys(config: Config) -> Iterator[Keys]:
    """How Microsoft's files name the tensors of a model."""
    family = families()[config.family]
    if "microsoft" in family.fixed:
        yield Keys(rows=layout.rows(config, family, "microsoft"))


def read(source: Source) -> Reading:
    """Read a file of Microsoft's.

    Raises:
        CheckpointError: when its configuration is of a model that is not supported.
    """
    cfg: Mapping[str, Any] = source.root["cfg"]
    biased = typed("relative_position_embedding", cfg.get("relative_position_embedding", False), bool)
    if biased and not typed("gru_rel_pos", cfg.get("gru_rel_pos", False), bool):
        raise CheckpointError("gru_rel_pos is False beside relative_position_embedding; no released model has that")
    family = families()[FAMILIES[biased]]
    bias = {"relative_buckets": cfg.get("num_buckets", 320), "relative_max_distance": cfg.get("max_distance", 1280)}
    config = SpeechEncoderConfig.from_dict(
        {
            "family": family.name,
            **layout.encoder_fields(cfg.get),
            **(bias if biased else {}),
            "normalize": cfg.get("normalize", False),
            **family.fixed["microsoft"],
        }
    )
    return Reading(
        config=config,
        tensors=layout.tensors(source.root["model"].items()),
        rows=layout.rows(config, family, "microsoft"),
        drops=(),
        source_config=cfg,
    )


def write(checkpoint: Checkpoint) -> Export:
    """The encoder, the only thing that such a file has."""
    config: Any = checkpoint.config
    biased = config.family == FAMILIES[True]
    bias = {"num_buckets": config.relative_buckets, "max_distance": config.relative_max_distance}
    cfg = {
        **layout.said_fields(config, LACKS),
        **layout.kept_fields(checkpoint.source_config("microsoft")),
        "normalize": config.normalize,
        "relative_position_embedding": biased,
        "gru_rel_pos": biased,
        **(bias if biased else {}),
    }
    rows = layout.rows(config, families()[config.family], "microsoft")
    written = layout.write_model(checkpoint, cfg, rows, (), "Microsoft's file, which is of an encoder alone,")
    return Export(root={"cfg": cfg, "model": written.tensors}, written=written.written, dropped=written.dropped)


DIALECT = Dialect(
    name="microsoft",
    recognise=recognise,
    read=read,
    keys=keys,
    target="s3prl",
    holds=lambda config: config.family in FAMILIES.values(),
    write=write,
    unsaid=TOOLKITS_OWN | {"symbols"},
)
