"""WavLM and UniSpeech-SAT as Microsoft distributes them: `{"cfg": {...}, "model": {...}}`, keys as fairseq's.

The two families share the layout; only the relative position bias tells them apart.
Facts from microsoft/UniSpeech `WavLM/WavLM.py` (40d3227, share-alike: read for facts) and s3prl's loader (Apache-2.0).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zoo._registry import families
from zoo.converters import _fairseq_layout as layout
from zoo.converters._dialect import Dialect, Reading
from zoo.converters._source import Source
from zoo.errors import CheckpointError
from zoo.models._family import typed
from zoo.models._speech_encoder import SpeechEncoderConfig

FAMILIES = {True: "wavlm", False: "unispeech_sat"}  # by whether the position bias is on


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


DIALECT = Dialect(name="microsoft", recognise=recognise, read=read)
