"""What a dialect is: a layout of checkpoints that can be recognised by its structure and read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from zoo.converters._rows import Drop, Row
from zoo.converters._source import Lazy, Source
from zoo.models._family import Config


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a dialect finds in a file.

    Attributes:
        config: the model's configuration.
        tensors: every tensor of the model's state dict, under the file's own keys.
        rows, drops: where those keys go.
        source_config: the configuration as the file has it, plain data.
        extra: other facts worth keeping beside the tensors, plain data (dictionaries, for instance).
    """

    config: Config
    tensors: Mapping[str, Lazy]
    rows: tuple[Row, ...]
    drops: tuple[Drop, ...]
    source_config: Mapping[str, Any]
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """A layout of checkpoints.

    Attributes:
        name: as the command line spells it.
        recognise: whether a file has this layout, judged by its structure alone.
        read: what is in a file that was recognised; raises CheckpointError.
        pick: leaves one language of a file that holds several, before it is read; raises CheckpointError. None: no file
            of this layout holds several.
    """

    name: str
    recognise: Callable[[Source], bool]
    read: Callable[[Source], Reading]
    pick: Callable[[Source, str], None] | None = None
