"""What can be said of a checkpoint beside its model, without reading tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from zoo._registry import families
from zoo.converters._bare import architecture
from zoo.converters._dialect import TOOLKITS_OWN
from zoo.models._family import Config

TRAINING = {  # kind of state -> the names under which trainers keep it
    "optimizer": (
        "last_optimizer_state",
        "optimizer",
        "optimizer_state_dict",
        "optimizer_states",
        "Optimizer",
    ),
    "scheduler": ("lr_schedulers", "lr_scheduler", "scheduler", "scheduler_state_dict", "Scheduler"),
    "ema": ("ema", "ema_fp32_params", "ema_state_dict", "model_ema", "_ema"),
    "steps": ("num_updates", "Step", "global_step", "step", "iteration", "epoch"),
}


def training_state(root: Any) -> dict[str, Any]:
    """What a trainer left in a file: kind -> where it stands; of steps, their number by its name."""
    found: dict[str, Any] = {}
    for path, section in _sections(root):
        for kind, names in TRAINING.items():
            for name in names:
                if kind == "steps" and type(section.get(name)) is int:
                    found.setdefault(kind, {})[path + name] = section[name]
                elif kind != "steps" and section.get(name):
                    found.setdefault(kind, []).append(path + name)
    return found


def _sections(root: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The places in which trainers keep such things: the top level, and fairseq's sections."""
    if not isinstance(root, Mapping):
        return
    yield "", root
    for name in ("extra_state", "model"):
        if isinstance(root.get(name), Mapping):
            yield f"{name}.", root[name]
    history = root.get("optimizer_history")
    if isinstance(history, list) and history and isinstance(history[-1], Mapping):
        yield "optimizer_history.", history[-1]


def same_architecture(config: Config) -> list[str]:
    """Names of the released models that are built like this one."""

    def built(config: Config) -> dict[str, Any]:
        return {name: value for name, value in architecture(config).items() if name not in TOOLKITS_OWN}

    presets = families()[config.family].presets
    return [preset.name for preset in presets if built(preset.config) == built(config)]
