"""Pin a model: what it computes on a built-in waveform, forward and backward, in a small file to compare with later.

zoo.testing.record(model, "ours.fingerprint.json")  # once
zoo.testing.check(model, "ours.fingerprint.json")   # on another machine, after an upgrade: raises FingerprintError

The input is integer arithmetic divided by a power of two, the same bits everywhere: two quiet, off-centre utterances of
unequal length in one batch, so that padding takes part. The model runs in fp32 on the CPU, in eval mode. Recorded are

* names and shapes of parameters and buffers, and the projection of each: sum(x * s) for fixed signs s, which a change
  of any value moves;
* of every hidden state, per utterance: mean, root mean square (RMS), least, median and largest norm of a frame, the
  projection over the norm, and single values; with `padding="reference"` too, where less is recorded;
* of the gradient of f = sum over hidden states h of sum(h * s) / |h|, with respect to the input and to every
  parameter: RMS, the projection over the norm, and single values.

Everything but weights is compared in units of the tensor's own RMS. Heads are left out, but for the logits of a model
that was loaded with its CTC head.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from zoo._native import replacing
from zoo.errors import FingerprintError, InputError, cut, printable, shown
from zoo.models._family import Model

FORMAT = 1
# Largest differences allowed: of weights, relative to the projection; of the rest in units of its RMS. docs/numerics.md
# has what thread counts and fp64 change.
TOLERANCES = {"weights": 1e-6, "states": 5e-5, "gradients": 5e-4}
LENGTHS = {"waveforms": (24_007, 15_011), "features": (83, 52)}  # no multiples of a hop
STATE, REFERENCE, GRADIENT = (4, 7), (2, 7), (2, 5)  # single values that are kept of a tensor, and their digits
TINY = 1e-30
GRADIENT_FLOOR = 1e-3  # of the largest RMS: smaller ones count as that large; a key bias has rounding for gradient
HEADS = "heads."
INPUT, TENSORS = "gradient of the input", "weights and their gradients"  # sections of the file
MAX_BYTES = 4 << 20
PERIOD = 8191  # of the signs: a prime, so that no two frames or rows of a model begin alike


def record(model: Model, path: str | os.PathLike[str]) -> None:
    """Write what a model computes on the built-in input.

    The model is left as it was. The file appears whole or not at all.

    Args:
        model: any model of the zoo, on any device and in any dtype; it is run in fp32 on the CPU.
        path: a JSON file, which is replaced.

    Raises:
        FingerprintError: when the model computes NaN or infinity.
        InputError: when the object is no model of the zoo or the file cannot be written.
    """
    text = _text(fingerprint(model)) + "\n"
    with replacing(Path(path)) as file:
        file.write(text.encode())


def check(model: Model, path: str | os.PathLike[str]) -> dict[str, float]:
    """Hold a model against what `record` wrote.

    Args:
        model: as for `record`.
        path: the file.

    Returns:
        The largest difference of "weights", "states" and "gradients", in the units of the file's tolerances.

    Raises:
        FingerprintError: naming the first stage that differs and by how much; or when the file cannot be used.
        InputError: when the object is no model of the zoo.
    """
    recorded = read(path)
    outputs = recorded.get("exact")
    return compare(fingerprint(model, logits=isinstance(outputs, dict) and "logits" in outputs), recorded)


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A file that `record` wrote.

    Raises:
        FingerprintError: when there is none, or it is another one.
    """
    try:
        with Path(path).open("rb") as file:
            content = json.loads(file.read(MAX_BYTES))
    except OSError as error:
        raise FingerprintError(
            f"{path} cannot be read ({error.strerror}); give a file that zoo.testing.record wrote"
        ) from None
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict) or content.get("zoo.fingerprint") != FORMAT:
        raise FingerprintError(
            f"{path} holds no fingerprint of format {FORMAT}; give a file that zoo.testing.record wrote, or record anew"
        )
    return content


def fingerprint(model: Model, *, logits: bool = True) -> dict[str, Any]:
    """What a model computes on the built-in input, as JSON data; without logits if they are not wanted."""
    from zoo import __version__

    if not isinstance(model, Model):
        raise InputError(f"zoo.testing takes a model of the zoo; found {type(model).__name__}")
    with _prepared(model) as ready:
        tensors = {name: tensor for name, tensor in ready.state_dict().items() if not name.startswith(HEADS)}
        inputs = _inputs(ready)
        ready.padding = "reference"
        with torch.no_grad():
            reference = {
                name: [_seen(x, *REFERENCE) for x in parts] for name, parts in _stages(ready, inputs, logits).items()
            }
        ready.padding = "exact"
        leaves = [x.requires_grad_() for x in inputs]
        stages = _stages(ready, leaves, logits)
        scalar = torch.stack([_scalar(x) for parts in stages.values() for x in parts]).sum()
        gradients = _gradients(scalar, ready, leaves)
        result = {
            "zoo.fingerprint": FORMAT,
            "versions": {"zoo": __version__, "torch": str(torch.__version__), "machine": platform.machine()},
            "tolerances": TOLERANCES,
            "source": {key: model.provenance[key] for key in ("name", "sha256") if key in model.provenance},
            "config": json.loads(json.dumps(model.config.to_dict())),
            "parameters": _names(tensors),
            "input": [list(x.shape) for x in inputs],
            "exact": {name: [_described(x) for x in parts] for name, parts in stages.items()},
            "reference": reference,
            INPUT: [_seen(x, *STATE) for x in gradients.pop("")],
        }
        rows: dict[str, dict[str, list[float]]] = {}
        for name, tensor in tensors.items():
            module, _, leaf = name.rpartition(".")
            row = [_rounded(_projection(tensor), 9)]
            rows.setdefault(module, {})[leaf] = row + [
                number for x in gradients.get(name, ()) for number in _seen(x, *GRADIENT)
            ]
        result[TENSORS] = rows
    return result


@contextlib.contextmanager
def _prepared(model: Model) -> Iterator[Model]:
    """The model in fp32 on the CPU, in eval mode with every gradient on; afterwards it is as it was.

    One that is elsewhere or in another dtype is copied: not every dtype survives the way to fp32 and back.
    """
    there = [t for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()]
    if any(t.is_meta for t in there):
        raise InputError("zoo.testing takes a model with weights; this one is on the meta device: load it instead")
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast("cpu", enabled=False):
        if not there or any(t.dtype != torch.float32 or t.device.type != "cpu" or t.is_inference() for t in there):
            model = copy.deepcopy(model).to("cpu", torch.float32)
        training = [module for module in model.modules() if module.training]
        frozen = [p for p in model.parameters() if p.is_floating_point() and not p.requires_grad]
        padding = model.padding
        try:
            model.eval()
            for parameter in frozen:
                parameter.requires_grad_(True)
            yield model
        finally:
            model.padding = padding
            for parameter in frozen:
                parameter.requires_grad_(False)
            for module in training:  # one by one: a caller may have frozen some of them
                module.training = True


def _inputs(model: Model) -> list[Tensor]:
    """Two utterances, the second one shorter and another."""
    long, short = (max(n, k * model.min_samples + 7) for n, k in zip(LENGTHS[model.takes], (3, 2)))
    if model.takes == "features":
        width: int = model.config.input_dim  # type: ignore[attr-defined]
        flat = (_hashed(long * width) >> 16).astype(np.float32) / 2**15 - 0.75
        features = torch.from_numpy(flat).reshape(long, width)
        return [features, features[-short:].clone()]
    wave = torch.tensor(_speech(long), dtype=torch.float32) / 2**15
    return [wave, wave[-short:].clone()]


@lru_cache(maxsize=4)
def _speech(samples: int) -> tuple[int, ...]:
    """16-bit samples of something like speech, in integer arithmetic.

    A pulse train of wandering pitch with noise, through two resonances whose frequencies change every 150 ms, under
    syllables that never fall silent. Quiet (RMS about 600) and off centre (300).
    """
    # 2 r cos(2 pi F / 16000) in units of 2**-14 for r = 0.97, of F = (700, 1100), (300, 2300), (500, 1500) Hz.
    vowels = ((30592, 28865), (31565, 19678), (31174, 26428))
    damping = 15416  # r ** 2
    result, filters, noise, wait = [], [[0, 0], [0, 0]], 1, 0
    for i in range(samples):
        noise = (noise * 1_103_515_245 + 12_345) % 2**31
        x = (noise >> 20) - 1024
        if not wait:
            x, wait = x + 2**14, 110 + abs(i // 64 % 80 - 40)
        wait -= 1
        for past, coefficient in zip(filters, vowels[i // 2400 % len(vowels)]):
            x += (coefficient * past[0] - damping * past[1]) >> 14
            past[:] = x, past[0]
        syllable = 256 + abs(i % 4000 - 2000)
        result.append(300 + (x * syllable >> 18))
    return tuple(result)


def _hashed(count: int) -> Any:
    """(count,) 32-bit integers that depend on nothing but their place."""
    x = np.arange(1, count + 1, dtype=np.uint64)
    for shift in (16, 15):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(0x45D9F3B) & np.uint64(0xFFFFFFFF)
    return x ^ (x >> np.uint64(16))


@lru_cache(maxsize=1)
def _signs() -> Tensor:
    """(PERIOD,) of 1 and -1, fp64."""
    return torch.from_numpy((_hashed(PERIOD) >> np.uint64(31)).astype(np.float64)) * 2 - 1


def _signs_of(x: Tensor) -> tuple[Tensor, Tensor, int]:
    """The signs of a tensor's elements as (rows,) times (PERIOD,), and how many elements the last row lacks."""
    rows = -(-x.numel() // PERIOD)
    return _signs()[(torch.arange(rows) * 7 + 3) % PERIOD], _signs(), rows * PERIOD - x.numel()


def _projection(x: Tensor) -> float:
    """sum(x * s), summed in fp64."""
    rows, columns, lacking = _signs_of(x)
    return float(rows @ (F.pad(x.detach().double().flatten(), (0, lacking)).view(-1, PERIOD) @ columns))


def _scalar(x: Tensor) -> Tensor:
    """sum(x * s) / |x| with the norm taken for a constant."""
    rows, columns, _ = _signs_of(x)
    signs = torch.outer(rows, columns).flatten()[: x.numel()].to(x.dtype)
    result: Tensor = x.flatten() @ signs / x.detach().double().norm().clamp(min=TINY).to(x.dtype)
    return result


def _stages(model: Model, inputs: Sequence[Tensor], logits: bool) -> dict[str, list[Tensor]]:
    """Everything that a model gives: stage -> its valid frames (T, D) for each utterance."""
    out = model(inputs)
    given = {f"hidden state {k}": state for k, state in enumerate(out.hidden_states)}
    if logits and out.logits is not None:
        given["logits"] = out.logits
    stages = {name: [x[i, :n] for i, n in enumerate(out.lengths.tolist())] for name, x in given.items()}
    for name, parts in stages.items():
        _check_finite(name, parts)
    return stages


def _check_finite(stage: str, parts: Sequence[Tensor]) -> None:
    if not all(bool(x.isfinite().all()) for x in parts):
        raise FingerprintError(f"{stage} is not finite on the built-in input: there is nothing to pin or to compare")


def _gradients(scalar: Tensor, model: Model, leaves: list[Tensor]) -> dict[str, list[Tensor]]:
    """Gradient of each parameter by its name, and of the input under ""; nothing is left behind in the model."""
    named = {n: p for n, p in model.named_parameters() if p.is_floating_point() and not n.startswith(HEADS)}
    found = torch.autograd.grad(scalar, [*leaves, *named.values()], allow_unused=True)
    result = {"": [x for x in found[: len(leaves)] if x is not None]}
    result |= {name: [x] for name, x in zip(named, found[len(leaves) :]) if x is not None}
    for name, parts in result.items():
        _check_finite(f"the gradient of {name or 'the input'}", parts)
    return result


def _names(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """How many tensors there are, and a digest of their names and shapes."""
    lines = "".join(f"{name} {list(tensor.shape)}\n" for name, tensor in sorted(tensors.items()))
    return {"count": len(tensors), "names_and_shapes": hashlib.sha256(lines.encode()).hexdigest()}


def _seen(x: Tensor, values: int, digits: int) -> list[float]:
    """RMS, projection over the norm, single values."""
    x = x.detach().double().flatten()
    norm = float(x.norm())
    picked = x[(torch.arange(values) * 2 + 1) * len(x) // (2 * values)]
    return [_rounded(y, digits) for y in (norm / len(x) ** 0.5, _projection(x) / max(norm, TINY), *picked.tolist())]


def _described(x: Tensor) -> dict[str, Any]:
    """What is recorded of a hidden state (T, D)."""
    norms = x.detach().double().norm(dim=1)
    return {
        "shape": list(x.shape),
        "mean": _rounded(float(x.detach().double().mean())),
        "frame norms": [_rounded(float(y)) for y in (norms.min(), norms.median(), norms.max())],
        "seen": _seen(x, *STATE),
    }


def _rounded(x: float, digits: int = 7) -> float:
    return float(f"{x:.{digits}g}")


class _Comparison:
    """Largest differences so far; refuses the first that is not allowed."""

    def __init__(self, recorded: Mapping[str, Any]) -> None:
        self.tolerances = {kind: float(recorded["tolerances"][kind]) for kind in TOLERANCES}
        self.largest = dict.fromkeys(TOLERANCES, 0.0)
        versions = recorded["versions"]
        self.by = printable(f"zoo {versions['zoo']} and torch {versions['torch']}")

    def same(self, stage: str, found: Any, recorded: Any) -> None:
        """Refuse what is not equal."""
        if found != recorded:
            raise FingerprintError(f"{stage} differs: {shown(found)}, where {self.by} recorded {shown(recorded)}")

    def near(self, kind: str, stage: str, found: float, recorded: float, unit: float) -> None:
        """Refuse a number that differs by more than the tolerance times the unit."""
        difference = abs(found - recorded) / max(unit, TINY)
        if not difference <= self.tolerances[kind]:
            raise FingerprintError(
                f"{stage} differs by {difference:.1e}, where {self.tolerances[kind]:.1e} is allowed: "
                f"{found:.6g} instead of the {recorded:.6g} that {self.by} recorded"
            )
        self.largest[kind] = max(self.largest[kind], difference)

    def seen(self, kind: str, stage: str, found: Sequence[float], recorded: Sequence[float], floor: float = 0) -> None:
        """Hold what `_seen` gives against what it gave."""
        self.same(f"the number of values of {stage}", len(found), len(recorded))
        unit = max(recorded[0], floor)
        self.near(kind, f"the RMS of {stage}", found[0], recorded[0], unit)
        self.near(kind, f"the projection of {stage}", found[1] * found[0], recorded[1] * recorded[0], unit)
        for a, b in zip(found[2:], recorded[2:]):
            self.near(kind, f"a value of {stage}", a, b, unit + abs(b))


def compare(found: Mapping[str, Any], recorded: Mapping[str, Any]) -> dict[str, float]:
    """Hold one fingerprint against another, in the order in which a model computes.

    Returns:
        The largest differences.

    Raises:
        FingerprintError: naming the first stage that differs; or when what was recorded is damaged.
    """
    try:
        return _compare(found, recorded)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise FingerprintError(
            f"the fingerprint is damaged ({type(error).__name__}: {cut(str(error))}); record it anew"
        ) from None


def _compare(found: Mapping[str, Any], recorded: Mapping[str, Any]) -> dict[str, float]:
    result = _Comparison(recorded)
    for name in {**found["config"], **recorded["config"]}:
        result.same(f"{name} of the configuration", found["config"].get(name), recorded["config"].get(name))
    result.same("the set of parameters", found["parameters"], recorded["parameters"])
    result.same("the built-in input", found["input"], recorded["input"])
    names = [(module, leaf) for module, leaves in found[TENSORS].items() for leaf in leaves]
    for module, leaf in names:
        weight, was = found[TENSORS][module][leaf][0], recorded[TENSORS][module][leaf][0]
        result.near("weights", _joined(module, leaf), weight, was, abs(was))
    for mode in ("exact", "reference"):
        if "logits" in recorded[mode] and "logits" not in found[mode]:
            raise FingerprintError("logits were recorded, but the model gives none; load it with heads=True")
        result.same(f"the list of outputs ({mode} padding)", list(found[mode]), list(recorded[mode]))
        for name, parts in found[mode].items():
            for i, (x, was) in enumerate(zip(parts, recorded[mode][name], strict=True)):
                stage = f"{name} of utterance {i} ({mode} padding)"
                if mode == "exact":
                    result.same(f"the shape of {stage}", x["shape"], was["shape"])
                    rms = was["seen"][0]
                    result.near("states", f"the mean of {stage}", x["mean"], was["mean"], rms)
                    for a, b in zip(x["frame norms"], was["frame norms"], strict=True):
                        result.near("states", f"a frame's norm in {stage}", a, b, rms * x["shape"][1] ** 0.5)
                    x, was = x["seen"], was["seen"]
                result.seen("states", stage, x, was)
    for i, (x, was) in enumerate(zip(found[INPUT], recorded[INPUT], strict=True)):
        result.seen("gradients", f"the gradient of the input, utterance {i}", x, was)
    given = [row[1] for leaves in recorded[TENSORS].values() for row in leaves.values() if row[1:]]
    floor = GRADIENT_FLOOR * max(given, default=0.0)
    for module, leaf in names:
        (_, *x), (_, *was) = found[TENSORS][module][leaf], recorded[TENSORS][module][leaf]
        result.same(f"whether {_joined(module, leaf)} has a gradient", bool(x), bool(was))
        if x:
            result.seen("gradients", f"the gradient of {_joined(module, leaf)}", x, was, floor)
    return result.largest


def _text(content: Mapping[str, Any]) -> str:
    """JSON with a line for each thing that one may want to compare by eye."""
    lines = []
    for section, value in content.items():
        text = _line(value)
        if isinstance(value, dict) and len(text) > 100:
            text = "{\n" + ",\n".join(f"  {json.dumps(key)}: {_line(item)}" for key, item in value.items()) + "\n }"
        lines.append(f" {json.dumps(section)}: {text}")
    return "{\n" + ",\n".join(lines) + "\n}"


def _line(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _joined(module: str, leaf: str) -> str:
    return f"{module}.{leaf}" if module else leaf
