"""Models that are near to those of the zoo but not among them, told by their structure; `docs/models.md` lists them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from zoo.converters._source import Source
from zoo.errors import CheckpointError


@dataclass(frozen=True)
class Unsupported:
    """A model that cannot be converted.

    Attributes:
        name: what people call it.
        models: names by which configurations call it.
        key: pattern of the keys that nobody else has; empty: it has none.
        reason: why it is not supported.
    """

    name: str
    models: tuple[str, ...]
    key: str
    reason: str


UNSUPPORTED = (
    Unsupported(
        "multi-resolution HuBERT",
        ("multires_hubert", "multires_hubert_pretraining", "multires_hubert_ctc"),
        r"(w2v_encoder\.w2v_model\.)?(middle_encoder|(down|up)sample_modules)\..*",
        "its layers run at several frame rates, so its hidden states have no common length",
    ),
    Unsupported(
        "an ESPnet model",
        (),
        r"(encoder\.)?hubert_pretrain_model\..*",
        "its configuration is a YAML file beside it; use a model that was released for fairseq or Hugging Face",
    ),
    Unsupported(
        "LightHuBERT",
        ("hubert_pruner", "student_hubert"),
        "",
        "it is a supernet, from which a sub-network of each layer's own size is chosen after loading",
    ),
    Unsupported(
        "ILS-HuBERT",
        ("ils_hubert",),
        r".*post_layer_norm\..*",
        "its released files cannot be fetched any more, so nothing could be proved with one",
    ),
)
CONFIGURATIONS = ("cfg", "args", "model_cfg")
STATES = ("model", "model_weight", "state_dict")


def refuse_unsupported(source: Source) -> None:
    """Refuse a model that is known not to be supported.

    Raises:
        CheckpointError: with its name and the reason.
    """
    if not isinstance(source.root, Mapping):
        return
    names, keys = set(_names(source.root)), list(_keys(source.root))
    for model in UNSUPPORTED:
        if names & set(model.models) or (model.key and any(re.fullmatch(model.key, key) for key in keys)):
            raise CheckpointError(f"it is {model.name}, which is not supported, because {model.reason}")


def _names(root: Mapping[str, Any]) -> Iterator[str]:
    """What the configurations of a file call its model."""
    for place in CONFIGURATIONS:
        config = root.get(place)
        for section in (config, config.get("model") if isinstance(config, Mapping) else None):
            if isinstance(section, Mapping):
                yield from (name for field in ("_name", "arch") if isinstance(name := section.get(field), str))


def _keys(root: Mapping[str, Any]) -> Iterator[str]:
    """Names of the tensors of a file."""
    for state in (root, *(root.get(place) for place in STATES)):
        if isinstance(state, Mapping):
            yield from map(str, state)
