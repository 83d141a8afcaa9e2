"""Whether the zoo and a toolkit agree on one example: stages, batches, gradients, and what the file says of itself.

The comparison and its tolerances are those of the golden data, made twice:

* in float64 on both sides. There rounding is nothing, and the table stands as it is, whatever was drawn;
* in float32 on both sides. A random model may magnify rounding more than chosen ones do. Where the toolkit's own
  float32 is off from its float64, `NOISE` times that is allowed, of that kind of stage or that gradient alone.

Some gradients are nothing, or nearly: that of a convolution's bias before a norm over time is zero in exact arithmetic,
and what is found for it is rounding. So the unit of no gradient is less than `LEAST` times the largest one's norm.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import recording
import torch
from torch import Tensor, nn

import zoo
from tests.golden.compare import Case, Comparison, Tolerance, compare
from tests.golden.live.examples import Example

# Two float32 computations each have their own noise, and one's may be small by chance: in some 1,700 models the other
# differed by 18.5 times it at most, in one 4 wide, whose norms divide by nearly nothing; the float64 values agreed.
NOISE = 20.0
LEAST = {np.dtype(np.float32): 1e-3, np.dtype(np.float64): 1e-7}
# The gradient of a key's bias is nothing too; its unit is that of the query's beside it.
BESIDE = {
    "k_proj.bias": "q_proj.bias",
    "linear_k.bias": "linear_q.bias",
    "key.bias": "query.bias",
    "bias[1]": "bias[0]",
}
Arrays = Mapping[str, np.ndarray]
# A toolkit's model, how to run it, what to do to an utterance before; in float64 if so asked.
Build = Callable[[bool], tuple[nn.Module, recording.Run, Callable[[Tensor], Tensor]]]


@dataclass
class Measured(Comparison):
    """A comparison that knows by how much the toolkit's own float32 is off.

    Attributes:
        noise: by kind of stage ("conv", "projection", "states"), absolute, and by "gradient/<name>", in its unit.
        least: smallest unit of a gradient.
    """

    noise: Mapping[str, float] = field(default_factory=dict)
    least: float = 0.0

    def tolerance(self, stage: str, row: str) -> Tolerance:
        """What the table allows, or what the toolkit's own rounding demands."""
        allowed = super().tolerance(stage, row)
        kind = stage.removesuffix("/norm") if row == "gradient" else stage.rpartition("/")[2]
        return dataclasses.replace(allowed, atol=max(allowed.atol, NOISE * self.noise.get(named(kind), 0.0)))

    def check(self, stage: str, got: Any, want: np.ndarray, row: str = "tiny", unit: float = 1.0) -> None:
        """Compare one value."""
        super().check(stage, got, want, row, max(unit, self.least) if stage.startswith("gradient/") else unit)


def named(kind: str) -> str:
    """Numbered stages are states."""
    return "states" if kind.isdecimal() else kind


def least_unit(arrays: Arrays) -> float:
    """The unit of gradients that are nothing."""
    sizes = [float(value) for key, value in arrays.items() if key.endswith("/norm")]
    return LEAST[next(iter(arrays.values())).dtype] * max(sizes, default=0.0)


def own_noise(
    arrays: Arrays, exact: Arrays, frames: Mapping[str, Sequence[int]], name: Callable[[str], str] = str
) -> dict[str, float]:
    """By how much float32 is off from float64, for `Measured`.

    Args:
        arrays: what a toolkit computed in float32.
        exact: the same in float64.
        frames: valid frames of every call.
        name: the zoo's name of a parameter from the toolkit's.
    """
    noise: dict[str, float] = {}
    least = least_unit(arrays)
    for key, value in arrays.items():
        difference = np.abs(value.astype(np.float64) - exact[key])
        kind, unit = named(key.rpartition("/")[2]), 1.0
        if key.endswith("loss"):
            kind, unit = key, float(exact[key])
        elif match := re.fullmatch(r"(.*grad/)(.+?)/(norm|slice)", key):
            kind = f"gradient/{name(match[2])}"
            found = next((key for key in BESIDE if match[2].endswith(key)), "")
            whole = match[2].removesuffix(found) + BESIDE.get(found, "")
            unit = max(least, float(arrays[f"{match[1]}{whole}/norm"]))
        elif key.endswith("grad/input"):
            kind, unit = "gradient/input", float(np.linalg.norm(value))
        elif kind == "states" and key.startswith("padded/"):
            difference = np.concatenate([row[:n] for row, n in zip(difference, frames["padded"])])
        noise[kind] = max(noise.get(kind, 0.0), float(difference.max()) / unit)
    return noise


def plain(arrays: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Tensors as arrays."""
    return {name: value.detach().numpy() for name, value in arrays.items()}


def config_differences(found: Any, drawn: Any) -> list[str]:
    """Where the zoo reads something else from the toolkit's file than was drawn."""
    fields = dataclasses.asdict(drawn)
    return [f"{n} was read as {getattr(found, n)!r}" for n, value in fields.items() if getattr(found, n) != value]


def together(config: list[str], single: Comparison, double: Comparison) -> Comparison:
    """One outcome of both comparisons; largest differences in float64 are named so."""
    in_double = {f"{kind} (64)": value for kind, value in double.largest.items()}
    failures = [f"float32: {text}" for text in single.failures] + [f"float64: {text}" for text in double.failures]
    return Comparison({**single.largest, **in_double}, [*config, *failures])


def speech(
    example: Example,
    folder: Path,
    build: Build,
    facts: Mapping[str, Any],
    save: Callable[[nn.Module, Path], Path] | None = None,
) -> Comparison:
    """Holds the zoo against a toolkit's model of waveforms.

    Args:
        example: What was drawn.
        folder: An empty one.
        build: Gives the toolkit's model.
        facts: `config` and `dialect`, from which `Case.checkpoint` writes the file, where there is no `save`.
        save: Writes the model as the toolkit does.
    """
    given = {"utterances": example.utterances}
    model, run, prepare = build(False)
    arrays, frames = recording.compute(model, run, prepare, torch.float32, **given)
    exact, _ = recording.compute(*build(True), torch.float64, **given)
    values, exact = plain(arrays), plain(exact)
    about = {**facts, **given, "equal": recording.EQUAL, "seed": example.seed, "scale": example.scale}
    about |= {"frames": frames, "state": recording.describe(model)}
    counted = {"padded/frames": np.array(frames["padded"])}
    case = Case("live", about, {**values, **counted})
    path = save(model, folder) if save else case.checkpoint(folder)
    names = case.names(path)
    ours = {theirs: name for name, theirs in names.items()}
    noise = own_noise(values, exact, frames, lambda key: ours.get(key, key))

    found = zoo.load(path)
    same = config_differences(found.config, example.config)
    single = compare(case, found, names, Measured(noise=noise, least=least_unit(values)))
    case = Case("live", about, {**exact, **counted})
    double = compare(case, found.double(), names, Measured(least=least_unit(exact)))
    return together(same, single, double)
