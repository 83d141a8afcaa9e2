"""State dicts without a configuration: which names they use, under which prefix, and which released model they fit.

Shapes do not say everything: not the number of heads, nor where norms stand, nor strides, nor whether waveforms are
normalised. So the configuration is always that of a registry name: the one asked for, or, where the released models
that the tensors fit agree in everything but training, theirs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

from zoo._registry import families, find
from zoo._tensors import Lazy
from zoo.converters import _fairseq_layout
from zoo.converters._dialect import Dialect, Keys, Reading
from zoo.converters._rows import Drop, Row, invert
from zoo.converters._weight_norm import unfold
from zoo.errors import CheckpointError, shown
from zoo.models._family import Config

# Where toolkits keep a state dict; a file of nothing but tensors is one itself.
PLACES = ("state_dict", "model_state_dict", "model", "model_weight", "Transformer", "Distiller")
DEPTH = 4
# Fields that only training, or only what an output is called, depends on.
FREE = frozenset({"dropout", "attention_dropout", "activation_dropout", "input_dropout", "layerdrop", "symbols"})
MAX_BESIDE = 256  # branches beside an encoder; every key is compared with each
SHOWN = 6  # names in a message before it says how many more there are

Check = Callable[[Reading], object]  # raises CheckpointError for tensors that do not fit


def state_dict(root: Any) -> dict[str, Lazy] | None:
    """The tensors of a file, wherever it keeps them; None where there are none.

    Raises:
        CheckpointError: when there is more than one place, or something else than tensors in it.
    """
    for _ in range(DEPTH):
        if not isinstance(root, Mapping):
            return None
        places = [place for place in PLACES if isinstance(root.get(place), Mapping)]
        if len(places) > 1:
            raise CheckpointError(f"it holds state dicts under {' and '.join(places)}; save a copy that holds one")
        if not places:
            break
        root = root[places[0]]
    if not any(isinstance(value, Lazy) for value in root.values()):
        return None
    tensors = _fairseq_layout.tensors(root.items())
    if odd := next((key for key in tensors if "{" in key), None):
        raise CheckpointError(
            f"it holds a tensor by the name {shown(odd)}, which no toolkit gives; rename or remove it"
        )
    return tensors


def architecture(config: Config) -> dict[str, Any]:
    """The fields of a configuration on which the output depends."""
    return {name: value for name, value in config.to_dict().items() if name not in FREE}


def read_as(tensors: Mapping[str, Lazy], preset: str, dialects: Iterable[Dialect]) -> Reading:
    """Take a registry name's configuration for a state dict.

    Raises:
        CheckpointError: when no toolkit's names for that model are there.
        UnknownModelError: for an unknown name.
    """
    _, found = find(preset)
    reading = _reading(tensors, found.config, [*dialects])
    if reading is None:
        raise CheckpointError(f"it holds no tensors by the names that any toolkit gives to those of {preset}")
    return replace(reading, extra={**reading.extra, "preset": preset})


def read_alone(tensors: Mapping[str, Lazy], dialects: Iterable[Dialect], check: Check) -> Reading:
    """Find the configuration of a state dict among those of the released models.

    Raises:
        CheckpointError: when it fits none of them, or several that differ.
    """
    dialects = [*dialects]
    fitting: list[tuple[list[str], Reading]] = []
    for names, config in _architectures():
        if not _may_fit(tensors, config) or (reading := _reading(tensors, config, dialects)) is None:
            continue
        try:
            check(reading)
        except CheckpointError:
            continue
        fitting.append((names, reading))
    if not fitting:
        raise CheckpointError(
            "it has no configuration, and its tensors fit no model of the registry; "
            "python -m zoo.convert --preset NAME says what is missing or too much for the model NAME"
        )
    if len(fitting) > 1:
        first = [names[0] for names, _ in fitting]
        more = sum(len(names) for names, _ in fitting) - len(first[:SHOWN])
        raise CheckpointError(
            "it has no configuration, and its tensors fit models that differ in what tensors do not show: "
            f"{', '.join(first[:SHOWN])}{f' and {more} more' if more else ''}; "
            "say which one it is with python -m zoo.convert --preset NAME"
        )
    ((names, reading),) = fitting
    return replace(reading, extra={**reading.extra, "preset": names[0]})


def _architectures() -> Iterator[tuple[list[str], Config]]:
    """Names of the released models that have weights, by what distinguishes their configurations."""
    for family in families().values():
        found: list[tuple[dict[str, Any], list[str], Config]] = []
        for preset in family.presets:
            what = architecture(preset.config)
            same = next((names for other, names, _ in found if other == what), None)
            if same is not None:
                same.append(preset.name)
            elif preset.parameters:
                found.append((what, [preset.name], preset.config))
        yield from ((names, config) for _, names, config in found)


def _may_fit(tensors: Mapping[str, Lazy], config: Config) -> bool:
    """Whether a model's matrices are all there, which is quicker to find out than by their names."""
    return _matrices(config) <= Counter(tensor.shape for tensor in tensors.values())


@lru_cache(maxsize=128)
def _matrices(config: Config) -> Counter[tuple[int, ...]]:
    shapes = families()[config.family].shapes(config).values()
    return Counter(shape for shape in shapes if len(shape) == 2)


def _reading(tensors: Mapping[str, Lazy], config: Config, dialects: list[Dialect]) -> Reading | None:
    """A state dict by the names of which most are there; None where there are none of any toolkit's.

    Raises:
        CheckpointError: when it holds two encoders.
    """
    expected = families()[config.family].shapes(config)
    found: list[tuple[set[str], str, Keys, str]] = []
    for dialect in dialects:
        for keys in dialect.keys(config):
            sources = invert(keys.rows, expected)
            for prefix in _prefixes(tensors, [key for name, key in sources.items() if len(expected[name]) > 1]):
                there = {key for source in sources.values() if (key := prefix + source) in tensors}
                found.append((there, prefix, keys, dialect.name))
    if not found:
        return None
    best, prefix, keys, dialect_name = max(found, key=lambda one: len(one[0]))
    for other, other_prefix, _, _ in found:
        if not other & best and 2 * len(other) > len(best):
            raise CheckpointError(
                f"it holds two encoders, under {shown(prefix)} and {shown(other_prefix)}; save a copy that holds one"
            )
    drops = [Drop(prefix + drop.source, drop.reason) for drop in keys.drops]
    beside = {_beside(key, prefix) for key in tensors if not key.startswith(prefix)}
    if len(beside) > MAX_BESIDE:
        raise CheckpointError(
            f"it holds {len(beside)} branches beside the model under {shown(prefix)}; "
            "save a copy that holds the model alone"
        )
    where = f"it stands beside the model, which is under {shown(prefix)}"
    drops += [Drop(template, where) for template in sorted(beside)]
    return unfold(
        Reading(
            config=config,
            tensors=tensors,
            rows=tuple(Row(prefix + row.source, row.target) for row in keys.rows),
            drops=tuple(drops),
            source_config={},
            extra={"keys": dialect_name, "prefix": prefix},
        )
    )


def _prefixes(tensors: Mapping[str, Lazy], matrices: list[str]) -> list[str]:
    """What stands before a toolkit's names, told by one of those with which no other ends."""
    anchor = next((key for key in matrices if sum(other.endswith(key) for other in matrices) == 1), None)
    found = {key.removesuffix(anchor) for key in tensors if anchor and key.endswith(anchor)}
    return sorted(prefix for prefix in found if not prefix or prefix.endswith("."))


def _beside(key: str, prefix: str) -> str:
    """The template of a key and its siblings: its path down to where it leaves that of the prefix."""
    parts, path = key.split("."), prefix.split(".")
    depth = next((i for i, part in enumerate(parts) if part != path[i]), len(parts) - 1) + 1
    return ".".join(parts[:depth]) + (".{rest}" if depth < len(parts) else "")
