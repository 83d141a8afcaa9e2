"""What makers share, whatever they record: command line, stages, gradients, noise, files. torch and NumPy only."""

from __future__ import annotations

import argparse
import datetime
import json
import math
import platform
import re
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import store
import torch
from generator import tensor, waveform
from torch import Tensor, nn
from torch.nn import functional as F

HERE = Path(__file__).resolve().parent
SLICE = 64  # values kept of each parameter's gradient
SPEECH = ("2412-153948-0000.flac", "2412-153948-0001.flac")
# Lengths that are no multiple of the hop, not sorted; a quiet utterance off centre, a loud one, an ordinary one.
UTTERANCES = (
    {"file": SPEECH[0], "start": 36000, "samples": 3543, "gain": 2.0, "offset": 0.0},
    {"file": SPEECH[1], "start": 60000, "samples": 4943, "gain": 0.05, "offset": 0.01},
    {"file": SPEECH[0], "start": 92000, "samples": 2183, "gain": 1.0, "offset": -0.05},
)
EQUAL = (
    {"file": SPEECH[0], "start": 12345, "samples": 2400, "gain": 1.0, "offset": 0.0},
    {"file": SPEECH[1], "start": 120000, "samples": 2400, "gain": 0.3, "offset": 0.01},
)
# What the tiny checkpoints are given.
UTTERANCE = {"file": SPEECH[0], "start": 60000, "samples": 4000, "gain": 1.0, "offset": 0.01}


@dataclass
class Stages:
    """Everything that is recorded of one call.

    `states` are (B, T, D): what enters layer 1, ..., the final output. `padding_mask` (B, T), True where padded, says
    which frames count as valid; None means all of them.
    """

    conv: Tensor
    projection: Tensor
    states: list[Tensor]
    padding_mask: Tensor | None

    @property
    def frames(self) -> list[int]:
        """Valid frames of each utterance."""
        batch, length = self.states[0].shape[:2]
        return [length] * batch if self.padding_mask is None else (~self.padding_mask).sum(1).tolist()


Run = Callable[[Tensor, Tensor | None], Stages]  # waveforms (B, S) and their mask (B, S), True where padded, or None


def command_line(
    description: str,
    makers: Mapping[str, tuple[Callable[..., None], Path]],
    argv: Sequence[str] | None = None,
    **folders: str,
) -> None:
    """Runs one part of a maker, on one thread.

    Args:
        description: Text of the help.
        makers: What can be asked for: what makes it, given a folder that is there, and where it belongs.
        argv: The arguments; None: those of the process.
        folders: Other folders that the maker takes, by name, and what they are for.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=list(makers))
    for name, about in folders.items():
        parser.add_argument(f"--{name}", type=Path, required=True, help=about)
    parser.add_argument("--out", type=Path, help="output folder (default: its place in the repository)")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    make, place = makers[arguments.what]
    out = arguments.out or place
    out.mkdir(parents=True, exist_ok=True)
    make(out, **{name: getattr(arguments, name) for name in folders})


def versions(distribution: str, **packages: Any) -> dict[str, Any]:
    """What made the data: a reference, what else its values may depend on, and what runs it."""
    return {
        "distribution": distribution,
        **packages,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


def provenance(reference: Mapping[str, Any], script: str) -> dict[str, Any]:
    """Where values come from, for the head of a file."""
    return {
        "reference": reference,
        "script": f"tests/golden/{script}",
        "date": datetime.date.today().isoformat(),
    }


def describe(model: nn.Module) -> dict[str, dict[str, Any]]:
    """Shape and dtype of everything in a state dict."""
    return {
        name: {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
        for name, value in model.state_dict().items()
    }


def fill(model: nn.Module, seed: int, scale: str) -> nn.Module:
    """Gives a model generated weights and puts it in eval mode."""
    with torch.no_grad():
        for name, value in model.state_dict().items():  # which shares its memory; the largest models fit in once
            value.copy_(torch.from_numpy(tensor(name, value.shape, seed, scale)))
    return model.eval()


def pad(utterances: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Zero-pads utterances into (B, S) with the mask that goes with it, True where padded."""
    source = nn.utils.rnn.pad_sequence(list(utterances), batch_first=True)
    lengths = torch.tensor([len(utterance) for utterance in utterances])
    return source, torch.arange(source.shape[1]) >= lengths[:, None]


def record_stages(arrays: dict[str, Any], prefix: str, stages: Stages, *, only_states: bool = False) -> None:
    """Adds the stages of a call: (T, D) for a single utterance, (B, T, D) for a batch."""
    named = {str(index): state for index, state in enumerate(stages.states)}
    if not only_states:
        named = {"conv": stages.conv, "projection": stages.projection, **named}
    for name, value in named.items():
        value = value.detach()
        arrays[f"{prefix}/{name}"] = value[0] if prefix.startswith("single") else value


def record_gradients(
    arrays: dict[str, Any], prefix: str, model: nn.Module, loss: Tensor, inputs: Sequence[Tensor]
) -> None:
    """Adds a loss and its gradients with respect to the raw waveforms and to every parameter that has one."""
    parameters = dict(model.named_parameters())
    gradients = torch.autograd.grad(loss, [*inputs, *parameters.values()], allow_unused=True)
    arrays[f"{prefix}loss"] = loss.detach()
    waveforms = nn.utils.rnn.pad_sequence(gradients[: len(inputs)], batch_first=True)
    arrays[f"{prefix}grad/input"] = waveforms if len(inputs) > 1 else waveforms[0]
    for name, gradient in zip(parameters, gradients[len(inputs) :], strict=True):
        if gradient is None:
            continue
        parts = {name: gradient}
        if re.search(r"\.(qkv|in_proj_(weight|bias)$)", name):  # fused: query, key and value each by itself
            parts = {f"{name}[{i}]": part for i, part in enumerate(gradient.chunk(3))}
        for part, value in parts.items():
            flat = value.flatten()
            arrays[f"{prefix}grad/{part}/norm"] = flat.double().norm()
            arrays[f"{prefix}grad/{part}/slice"] = flat[:: max(1, len(flat) // SLICE)][:SLICE]


def compute(
    model: nn.Module,
    run: Run,
    prepare: Callable[[Tensor], Tensor],
    dtype: torch.dtype,
    *,
    short: bool = False,
    utterances: Sequence[Mapping[str, Any]] = UTTERANCES,
) -> tuple[dict[str, Any], dict[str, list[int]]]:
    """Everything that a golden file records of one model.

    Args:
        model: The model, in eval mode.
        run: Runs it and records its stages.
        prepare: What its toolkit does to an utterance (S,) before padding.
        dtype: Precision of model and audio.
        short: Leave out the batch of equal lengths and the gradients of the padded batch.
        utterances: What it is given, the first of them for gradients alone.

    Returns:
        The arrays by name, as tensors, and the valid frames of every call.
    """
    arrays: dict[str, Any] = {}
    raw = [torch.from_numpy(waveform(spec)).to(dtype).requires_grad_() for spec in utterances]
    frames: dict[str, list[int]] = {"single": []}
    for index, utterance in enumerate(raw):
        stages = run(prepare(utterance)[None], None)
        frames["single"] += stages.frames
        record_stages(arrays, f"single{index}", stages)
        if index == 0:
            loss = sum(state.pow(2).mean() for state in stages.states)
            record_gradients(arrays, "", model, loss, [utterance])
    if not short:
        equal = torch.stack([prepare(torch.from_numpy(waveform(spec)).to(dtype)) for spec in EQUAL])
        stages = run(equal, None)
        frames["equal"] = stages.frames
        record_stages(arrays, "equal", stages, only_states=True)

    stages = run(*pad([prepare(utterance) for utterance in raw]))
    frames["padded"] = stages.frames
    record_stages(arrays, "padded", stages)
    if not short:
        valid = torch.arange(stages.states[0].shape[1]) < torch.tensor(stages.frames)[:, None]
        loss = sum(state[valid].pow(2).mean() for state in stages.states)
        record_gradients(arrays, "padded/", model, loss, raw)
    assert all(bool(torch.isfinite(value).all()) for value in arrays.values())
    return arrays, frames


def measure_noise(
    arrays: Mapping[str, Any], exact: Mapping[str, Any], frames: Mapping[str, Sequence[int]]
) -> dict[str, float]:
    """Largest difference between float32 and float64, by kind: absolute for stages, over the norm for gradients.

    Of the padded batch, only the frames that `frames` counts as valid.
    """
    noise = {"conv": 0.0, "projection": 0.0, "states": 0.0, "gradients": 0.0}
    for name, value in arrays.items():
        differences = (value.double() - exact[name]).abs()
        if re.fullmatch(r"padded/(conv|projection|\d+)", name):
            differences = torch.cat([row[:n] for row, n in zip(differences, frames["padded"])])
        difference = float(differences.max())
        kind = name.rpartition("/")[2]
        if "grad/" in name:
            whole = name.replace("/slice", "/norm")
            size = float(exact[whole]) if whole.endswith("/norm") else float(exact[name].norm())
            # Key biases shift all scores of a query alike: their gradient is zero, and what is seen is rounding.
            if not re.search(r"((k_proj|linear_k)\.bias|(qkv\.|in_proj_)bias\[1\])/(norm|slice)$", name):
                noise["gradients"] = max(noise["gradients"], difference / size)
        elif kind != "loss":
            noise[kind if kind in noise else "states"] = max(noise.get(kind, noise["states"]), difference)
    return {kind: float(f"{value:.2e}") for kind, value in noise.items()}


def in_double(model: nn.Module) -> nn.Module:
    """The same model in float64, also inside the norms that compute in float32 whatever the input."""
    for module in model.modules():
        if type(module).__name__ in ("Fp32LayerNorm", "Fp32GroupNorm"):
            module.forward = types.MethodType(type(module).__bases__[0].forward, module)
    return model.double()


def state_rms(arrays: Mapping[str, Any], layers: int) -> list[float]:
    """Root mean square of each hidden state of the longest utterance."""
    return [round(float(arrays[f"single1/{k}"].pow(2).mean().sqrt()), 3) for k in range(layers + 1)]


def entropy(weights: Tensor) -> float:
    """Mean entropy of attention (..., T, T), as a fraction of that of even attention."""
    value = -(weights * weights.clamp_min(1e-30).log()).sum(-1).mean() / math.log(weights.shape[-1])
    return round(float(value), 3)


def query_entropy(layers: Iterable[nn.Module], run: Callable[[], object]) -> list[float]:
    """Entropy of each layer's attention, in `run`, as fairseq's class computes it from (T, B, D); of the first item."""
    entropies: list[float] = []

    def measure(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        query = kwargs["query"][:, 0]
        heads = (len(query), module.num_heads, module.head_dim)
        q, k = module.q_proj(query).view(heads), module.k_proj(query).view(heads)
        entropies.append(entropy((torch.einsum("qhd,khd->hqk", q, k) * module.scaling).softmax(-1)))

    hooks = [layer.self_attn.register_forward_pre_hook(measure, with_kwargs=True) for layer in layers]
    with torch.no_grad():
        run()
    for hook in hooks:
        hook.remove()
    return entropies


@contextmanager
def torch_attention() -> Iterator[list[Tensor]]:
    """Collects each head's attention (B, H, T, T) from those who call `torch.nn.functional` for it, WavLM's classes."""
    original, seen = F.multi_head_attention_forward, []

    def observed(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        # As the last argument wins only by name, `need_weights` is taken out of the positional ones.
        names = "query key value size heads in bias k v zero dropout out out_bias training padding need mask".split()
        values = dict(zip(names, args))
        options = {"attn_mask": values.get("mask"), "key_padding_mask": values.get("padding"), **kwargs}
        options |= {"need_weights": True, "average_attn_weights": False}
        seen.append(original(*args[:14], **options)[1].detach())
        return original(*args, **kwargs)

    F.multi_head_attention_forward = observed
    try:
        yield seen
    finally:
        F.multi_head_attention_forward = original


def write_case(
    out: Path,
    about: Mapping[str, Any],
    model: nn.Module,
    arrays: Mapping[str, Any],
    exact: Mapping[str, Any],
    frames: Mapping[str, Sequence[int]],
    health: Mapping[str, Any],
) -> None:
    """Writes a golden case.

    Args:
        out: Folder.
        about: Its name as `case`, and all that was chosen.
        model: The model that was recorded.
        arrays: What `compute` gave in float32, and perhaps more.
        exact: The same in float64.
        frames: Valid frames of every call.
        health: Whether the case can see what it is for.
    """
    document = {
        **about,
        "utterances": UTTERANCES,
        **({"equal": EQUAL} if "equal" in frames else {}),
        "frames": frames,
        "noise": measure_noise({name: value for name, value in arrays.items() if name in exact}, exact, frames),
        "health": health,
        "state": describe(model),
    }
    stored = {name: value.numpy() for name, value in arrays.items()}
    stored["padded/frames"] = np.array(frames["padded"], dtype=np.int64)
    write(out / about["case"], document, stored, packed=True)


def write(stem: Path, document: dict[str, Any], arrays: Mapping[str, np.ndarray], *, packed: bool = False) -> None:
    """Writes the JSON and the arrays, packed as `store` does or one by one, and says how large they are."""
    text = json.dumps(document, indent=1)
    # Lists of plain values, and the entries of `state`, on one line each.
    text = re.sub(r"\[\s+([^][{}]*?)\s+\]", lambda match: f"[{' '.join(match[1].split())}]", text)
    text = re.sub(r'\{\s+("shape": .*)\n\s+("dtype": .*)\n\s+\}', r"{\1 \2}", text)
    stem.with_suffix(".json").write_text(text + "\n", encoding="utf-8")
    if packed:
        store.write(stem.with_suffix(".npz"), arrays)
    else:
        np.savez_compressed(stem.with_suffix(".npz"), **arrays)
    size = stem.with_suffix(".npz").stat().st_size / 1000
    print(f"{stem.name}: {len(arrays)} arrays, {size:.0f} kB", document.get("noise", ""), document.get("health", ""))
