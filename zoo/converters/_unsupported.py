"""Files of models that are near to those of the zoo but not among them, told by their structure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from zoo.converters._source import Source
from zoo.errors import CheckpointError
from zoo.models._unsupported import UNSUPPORTED

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
            raise CheckpointError(
                f"it is {model.name}, which is not supported, because {model.reason}; use {model.instead}"
            )


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
