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
import math
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo._native import replacing
from zoo.errors import ConfigError, FingerprintError, InputError, cut, printable, shown
from zoo.models._family import Model

FORMAT = 1
# Largest differences allowed. Weights: in units of the tensor's norm, what summation and the last digit kept can move.
# The rest in units of its RMS; measured on 2 and 24 layers over thread counts, machines and fp64: docs/numerics.md.
TOLERANCES = {"weights": 1e-6, "states": 1e-4, "gradients": 1e-3}
LENGTHS = {"waveforms": (24_007, 15_011), "features": (83, 52)}  # no multiples of a hop
VALUES = {"states": 9, "gradients": 2}  # single values that are kept of each tensor
GRADIENT_FLOOR = 1e-3
HEADS = "heads."
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
    return compare(fingerprint(model), recorded, str(path))


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A file that `record` wrote.

    Raises:
        FingerprintError: when there is none, or it is another one.
    """
    try:
        with Path(path).open("rb") as file:
            content = json.loads(file.read(MAX_BYTES + 1)[:MAX_BYTES])
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


def fingerprint(model: Model) -> dict[str, Any]:
    """What a model computes on the built-in input, as JSON data."""
    from zoo import __version__

    if not isinstance(model, Model):
        raise InputError(f"zoo.testing takes a model of the zoo; found {type(model).__name__}")
    with _prepared(model) as ready:
        weights = {name: tensor for name, tensor in ready.state_dict().items() if not name.startswith(HEADS)}
        inputs = _inputs(ready)
        result: dict[str, Any] = {
            "zoo.fingerprint": FORMAT,
            "versions": {"zoo": __version__, "torch": str(torch.__version__), "machine": platform.machine()},
            "tolerances": TOLERANCES,
            "provenance": {key: model.provenance[key] for key in ("name", "sha256") if key in model.provenance},
            "config": json.loads(json.dumps(model.config.to_dict())),
            "parameters": {"count": len(weights), "names_and_shapes": _digest(weights)},
            "input": [list(x.shape) for x in inputs],
        }
        ready.padding = "reference"
        with torch.no_grad():
            reference = _stages(ready, inputs)
        result["reference"] = {name: _forward(name, parts, detail=False) for name, parts in reference.items()}
        ready.padding = "exact"
        leaves = [x.requires_grad_() for x in inputs]
        stages = _stages(ready, leaves)
        result["exact"] = {name: _forward(name, parts, detail=True) for name, parts in stages.items()}
        scalar = torch.stack([_scalar(part) for parts in stages.values() for part in parts]).sum()
        result |= _backward(ready, scalar, leaves)
        result["weights"] = {name: _rounded(_projection(tensor)[0], 9) for name, tensor in weights.items()}
    return result
