"""Compares models of released size with what the references recorded of theirs (`make_full_size.py`)."""

from __future__ import annotations

import json
import os
import re
from argparse import Namespace
from collections.abc import Iterable, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests.golden import generator, spectral, store
from tests.golden.compare import Case, Comparison, stages
from tests.golden.summary import sample, size, sketch, summarise
from zoo._checkpoint import _fill, _laid_out
from zoo._tensors import Made
from zoo.converters import Conversion, dialects, match
from zoo.converters._source import Unwritten
from zoo.converters._weight_norm import unfold
from zoo.models._family import Model

DATA = Path(__file__).parent / "full_size"
GRADIENT_VALUES, WINDOW = 8, 320
ROW = "relative gradient"
# What tells no architectures apart: what acts in training only, and what is done to waveforms, which a pin states.
TREATMENT = re.compile(
    r".*(dropout|layerdrop)|normalize|normalize_eps|padding_rule|attention_mask|symbols|chunk_frames|sample_rate"
)


def read(name: str) -> Case:
    """A recorded case by its name."""
    return Case(name, json.loads((DATA / f"{name}.json").read_text()), store.read(DATA / f"{name}.npz"))


def names() -> list[str]:
    """The recorded cases: those up to 317 M parameters, and the larger ones where ZOO_HUGE is set."""
    facts = {path.stem: json.loads(path.read_text()) for path in DATA.glob("*.json")}
    return sorted(name for name, fact in facts.items() if not fact["on_demand"] or os.environ.get("ZOO_HUGE"))


def expand(entries: Iterable[str]) -> dict[str, str]:
    """Every name that stands for layers 0 ... n - 1 by `{n}` in place of the number, layer by layer -> that entry."""
    found = {}
    for entry in entries:
        parts = re.fullmatch(r"(.*)\{(\d+)\}(.*)", entry)
        every = [entry] if parts is None else [f"{parts[1]}{i}{parts[3]}" for i in range(int(parts[2]))]
        found |= dict.fromkeys(every, entry)
    return found


def conversion(case: Case) -> Conversion:
    """The case as a checkpoint that is nowhere written; its weights are made when they are read."""
    facts = case.facts
    dialect = facts["dialect"]
    entries = {name: facts["state"][entry] for name, entry in expand(facts["state"]).items()}

    @lru_cache(maxsize=1)  # as the parts of a fused projection are read one after another
    def make(name: str) -> Tensor:
        return torch.from_numpy(generator.tensor(name, entries[name]["shape"], facts["seed"], facts["scale"]))

    tensors = {
        name: Made(getattr(torch, entry["dtype"]), tuple(entry["shape"]), partial(make, name))
        for name, entry in entries.items()
    }
    if dialect == "huggingface":
        root = {"config": facts["hf_config"], "preprocessor_config": facts["preprocessor"], "tensors": tensors}
    elif dialect == "s3prl_distiller":
        root = {"Config": facts["config"], "Distiller": tensors}
    elif dialect == "s3prl":
        about = {**facts, "state": entries, "case": case.name}
        made = spectral.states(about, facts["seed"], facts["scale"])
        parts = [{k: Made(v.dtype, tuple(v.shape), v.detach) for k, v in part.items()} for part in made]
        configs = {"Config": facts["config"], "Upstream_Config": facts["config"]}
        layout = {key: value for key, value in configs.items() if key in ("Config", facts["layout"])}
        root = {**layout, "Args": Namespace(), "Transformer": parts[0], "SpecHead": parts[1]}
    else:
        root = {"cfg": facts["config"], "model": tensors}
    source = Unwritten(root)
    reading = unfold(dialects()[dialect].read(source))
    return Conversion(dialect, reading, match(reading), source)


def load(case: Case) -> tuple[Model, dict[str, str]]:
    """The model, and the reference's name of each of its parameters."""
    opened = conversion(case)
    same = case.facts["family"] in ("tera", "wav2vec_u")  # some of s3prl's parameters have several names
    filled = {name: name if same else key for name, key in opened.assignment.filled.items()}
    return _fill(_laid_out(opened.config), opened.checkpoint().tensors, False, {}), filled


def architecture(config: Any) -> tuple[tuple[str, Any], ...]:
    """What a configuration says of the layers."""
    return tuple((key, value) for key, value in sorted(config.to_dict().items()) if not TREATMENT.fullmatch(key))


def inputs(case: Case, call: str) -> list[Tensor]:
    """What the model is given in a call."""
    given = case.facts["utterances"][call]
    if case.facts["family"] != "wav2vec_u":
        return [torch.from_numpy(generator.waveform(spec)) for spec in given]
    width = case.facts["config"]["model"]["input_dim"]
    drawn = [generator.uniform(f"features/{call}/{n}", n * width).reshape(n, width) for n in given]
    return [torch.from_numpy(values) + 0.1 for values in drawn]


def run(model: Model, items: list[Tensor]) -> tuple[dict[str, Tensor], list[int]]:
    """Every stage by its name, and the valid frames."""
    batch = nn.utils.rnn.pad_sequence(items, batch_first=True)
    lengths = [len(item) for item in items]
    if model.config.family == "wav2vec_u":
        out = model(batch, lengths)
        padded = torch.arange(out.logits.shape[1]) >= out.lengths[:, None]
        score = model.discriminator(out.logits.softmax(2), padded)
        return {
            "logits": out.logits,
            "score": score.view(-1, 1, 1).expand(-1, padded.shape[1], 1),
        }, out.lengths.tolist()
    if model.config.family == "tera":
        out, seen = model(batch, lengths), {}
    else:
        with stages(model) as seen:
            out = model(batch, lengths)
    return {**seen, **{str(k): state for k, state in enumerate(out.hidden_states)}}, out.lengths.tolist()


def row_of(model: Model) -> str:
    """The row of the table for a model's depth."""
    return next(
        row for deepest, row in ((12, "12 layers"), (24, "24 layers"), (48, "48 layers")) if model.num_layers <= deepest
    )


def compare(case: Case, model: Model, names: Mapping[str, str], *, backward: bool = True) -> Comparison:
    """Hold a model against a case: alone and in the reference's padded batch, and backward alone."""
    result = Comparison()
    for call in ("single", "padded"):
        model.padding = "exact" if call == "single" else "reference"
        items = inputs(case, call)
        with torch.set_grad_enabled(backward and call == "single"):
            items[0].requires_grad_(torch.is_grad_enabled())
            found, _ = run(model, items)
        check_call(result, case, call, found, row_of(model))
        if items[0].requires_grad:
            check_gradients(result, case, model, names, found, items[0])
    model.padding = "exact"
    return result


def check_call(result: Comparison, case: Case, call: str, found: Mapping[str, Tensor], row: str) -> None:
    """Compare what every stage of a call is summed up to."""
    frames = torch.tensor(case.facts["frames"][call])[:, None]
    if list(found) != case.facts["stages"]:
        result.failures.append(f"{call}: stages {list(found)}")
        return
    for index, (name, value) in enumerate(found.items()):
        kept = value[torch.arange(value.shape[1]) < frames]
        for kind, got in summarise(kept).items():
            want = torch.from_numpy(case.arrays[f"{call}/{kind}"][index]).double()
            if kind == "sketch":
                got, want = (got - want).norm(), torch.zeros(())
            result.check(f"{call}/{name}/{kind}", got, want.numpy(), row)


def check_gradients(
    result: Comparison,
    case: Case,
    model: Model,
    names: Mapping[str, str],
    found: Mapping[str, Tensor],
    source: Tensor,
) -> None:
    """Compare the gradients of the loss that `make_full_size.py` describes."""
    want = {key: torch.from_numpy(value).double() for key, value in case.arrays.items()}
    frames = case.facts["frames"]["single"][0]
    total = torch.zeros((), dtype=torch.float64)
    for name, value in found.items():
        if name not in ("conv", "projection"):
            direction = torch.from_numpy(generator.uniform(f"loss/{name}", value.shape[-1]))
            total = total + (value[0, :frames] @ direction).mean()
    parameters = {names[name]: p for name, p in model.named_parameters() if p.requires_grad and name in names}
    gradients = torch.autograd.grad(total, [source, *parameters.values()], allow_unused=True)
    rows = {name: row for row, name in enumerate(expand(case.facts["gradients"]))}

    windows = nn.functional.pad(gradients[0].flatten(), (0, -source.numel() % WINDOW)).view(-1, WINDOW)
    unit = float(want["input/norms"].square().mean().sqrt()) * windows.numel() ** 0.5  # its norm
    got = summarise(windows)
    result.check("gradient/input", got["values"], want["input/values"].numpy(), ROW, unit)
    result.check("gradient/input", got["norms"], want["input/norms"].numpy(), ROW, unit)
    apart = (got["sketch"] - want["input/sketch"]).norm() * windows.numel() ** 0.5
    result.check("relative/input", apart, torch.zeros(()).numpy(), ROW, unit)

    compared = set()
    for name, gradient in zip(parameters, gradients[1:]):
        if gradient is None:
            continue
        if name not in rows:
            result.failures.append(f"gradient/{name}: the reference has none")
            continue
        compared.add(name)
        # The gradient of a key bias is zero but for rounding: its unit is that of the weight beside it.
        beside = re.sub(r"(k_proj|linear_k|key)\.bias$", r"\1.weight", name).replace("qkv.bias[1]", "qkv.weight[1]")
        row, unit = rows[name], float(want["gradients/norms"][rows[beside]])
        result.check(f"gradient/{name}/norm", size(gradient), want["gradients/norms"][row].numpy(), ROW, unit)
        values = sample(gradient, GRADIENT_VALUES)
        expected = want["gradients/values"][row, : len(values)]
        result.check(f"gradient/{name}", values, expected.numpy(), ROW, unit)
        apart = (sketch(gradient) - want["gradients/sketch"][row]).norm()
        result.check(f"relative/{name}", apart, torch.zeros(()).numpy(), ROW, unit)
    if compared != rows.keys():
        result.failures.append(f"gradient: none for {sorted(rows.keys() - compared)[:3]}")
