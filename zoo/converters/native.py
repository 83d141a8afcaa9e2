"""The zoo's own file, as a source of what is written for others."""

from __future__ import annotations

from collections.abc import Iterator

from zoo._native import NativeFile
from zoo._registry import families
from zoo.converters._dialect import Dialect, Keys, Reading
from zoo.converters._rows import Row
from zoo.converters._source import Source
from zoo.errors import ConfigError, shown
from zoo.models._family import Config


def recognise(source: Source) -> bool:
    """Whether it is an open native file."""
    return isinstance(source, NativeFile)


def keys(config: Config) -> Iterator[Keys]:
    """The zoo's own names, which its TERA shares with s3prl."""
    yield Keys(rows=(Row("{rest}", "{rest}"),))


def read(source: Source) -> Reading:
    """Take a native file as it is.

    Raises:
        ConfigError: for a configuration that no model has.
    """
    root = source.root
    name = root["config"].get("family")
    if not isinstance(name, str) or name not in families():
        raise ConfigError(f"it is of family {shown(name)}; known are {', '.join(sorted(families()))}")
    return Reading(
        config=families()[name].config.from_dict(root["config"]),
        tensors=root["tensors"],
        rows=(Row("{rest}", "{rest}"),),
        drops=(),
        source_config=root["config"],
        provenance=root["provenance"],
    )


DIALECT = Dialect(name="zoo", recognise=recognise, read=read, keys=keys)
