"""What a dialect is: a layout of checkpoints that can be recognised by its structure and read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from zoo._registry import families
from zoo._tensors import Lazy, cast
from zoo.converters._rows import Drop, Row
from zoo.converters._source import Source
from zoo.errors import CheckpointError
from zoo.models._family import Config

# Fields of waveforms and padding, of which each toolkit has its own values for the same architecture.
TOOLKITS_OWN = frozenset({"normalize_eps", "padding_rule", "attention_mask"})


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a dialect finds in a file.

    Attributes:
        config: the model's configuration.
        tensors: every tensor of the model's state dict, under the file's own keys.
        rows, drops: where those keys go.
        source_config: the configuration as the file has it, plain data.
        extra: other facts worth keeping beside the tensors, plain data (dictionaries, for instance).
        provenance: where the tensors come from, when the file says so itself.
    """

    config: Config
    tensors: Mapping[str, Lazy]
    rows: tuple[Row, ...]
    drops: tuple[Drop, ...]
    source_config: Mapping[str, Any]
    extra: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Keys:
    """One way in which a dialect names the tensors of a model.

    Attributes:
        rows, drops: as of a `Reading`.
    """

    rows: tuple[Row, ...]
    drops: tuple[Drop, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A model in the zoo's terms, its tensors not yet read.

    Attributes:
        config: the model's configuration.
        tensors: parameters, buffers and heads by the zoo's names.
        provenance: where they come from, JSON data.
    """

    config: Config
    tensors: Mapping[str, Lazy]
    provenance: Mapping[str, Any]

    def cast(self, dtype: torch.dtype | None, allow_nonfinite: bool = False) -> Checkpoint:
        """The same with floating-point tensors in another dtype; None: as they are.

        Args:
            dtype: a floating-point dtype.
            allow_nonfinite: whether numbers that are too large for it become infinite, instead of being refused.
        """
        full = families()[self.config.family].generated

        def one(name: str, tensor: Lazy) -> Lazy:
            return tensor if name in full else cast(name, tensor, dtype, allow_nonfinite)

        return replace(self, tensors={name: one(name, tensor) for name, tensor in self.tensors.items()})

    def heads(self) -> set[str]:
        """Names of the heads, without what is inside them."""
        return {name.split(".")[1] for name in self.tensors if name.startswith("heads.")}

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Sizes of a tensor; None where there is none of that name."""
        return self.tensors[name].shape if name in self.tensors else None

    def axes(self, name: str, count: int) -> tuple[int, ...] | None:
        """Sizes of a tensor that decide a configuration; None where there is none of that name.

        Raises:
            CheckpointError: when it has another number of axes, or an empty one.
        """
        shape = self.shape(name)
        if shape is not None and (len(shape) != count or 0 in shape):
            raise CheckpointError(f"{name} has the shape {list(shape)}, where such a head has {count} axes, none empty")
        return shape

    def source_config(self, *dialects: str) -> Mapping[str, Any]:
        """The configuration of the file that the tensors came from, if it was of one of these dialects."""
        config = self.provenance.get("config")
        return config if self.provenance.get("dialect") in dialects and isinstance(config, Mapping) else {}


@dataclass(frozen=True, kw_only=True)
class Export:
    """What a dialect makes of a checkpoint.

    Attributes:
        root: as `Source.root`: plain data with lazy tensors; of a folder, its JSON files by stem and `tensors`.
        written: the zoo's name -> key in the target.
        dropped: the zoo's name of what the target has no place for -> reason.
        made_up: key in the target -> why there is a tensor that the checkpoint does not have.
    """

    root: Mapping[str, Any]
    written: Mapping[str, str]
    dropped: Mapping[str, str] = field(default_factory=dict)
    made_up: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """A layout of checkpoints.

    Attributes:
        name: of the layout.
        recognise: whether a file has this layout, judged by its structure alone.
        read: what is in a file that was recognised; raises CheckpointError.
        keys: the ways in which it names the tensors of a configuration's model, one inside another model first; none
            where it has no such model. By these a state dict without a configuration is read.
        target: what `--to` calls it; several dialects of one toolkit share it. Empty: it cannot be written.
        holds: whether it has models of a configuration's family.
        write: what is to be written. What it makes is read again by `read`, and a model that does not come back as it
            was is refused; so it need not look for what the layout cannot say.
        unsaid: configuration fields that the layout has no place for: what is read has its toolkit's own values.
        pick: leaves one language of a file that holds several, before it is read; raises CheckpointError. None: no file
            of this layout holds several.
    """

    name: str
    recognise: Callable[[Source], bool]
    read: Callable[[Source], Reading]
    keys: Callable[[Any], Iterable[Keys]] = lambda config: ()
    target: str = ""
    holds: Callable[[Config], bool] = lambda config: False
    write: Callable[[Checkpoint], Export] | None = None
    unsaid: frozenset[str] = frozenset()
    pick: Callable[[Source, str], None] | None = None
