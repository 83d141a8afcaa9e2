"""Makes the fairseq part of the golden data: what fairseq itself computes, and checkpoints that fairseq itself pickles.

Runs in fairseq's own environment (README.md beside this file), never in the project's:

    python tests/golden/make_fairseq.py golden         # tests/golden/data/{wav2vec2,hubert}_*.{json,npz}
    python tests/golden/make_fairseq.py checkpoints    # tests/data/*.pt, expected.json, expected.npz

Each takes `--out DIR`. Weights and audio come from `generator.py`, so a second run gives the same arrays.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import logging
import os
import pickle
import sys
import tempfile
import types
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fairseq
import numpy as np
import omegaconf
import recording
import torch
from fairseq import checkpoint_utils, options, tasks
from fairseq.data import Dictionary
from fairseq.dataclass import constants
from fairseq.dataclass.configs import FairseqConfig
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.models import MODEL_DATACLASS_REGISTRY
from fairseq.models.hubert.hubert_asr import HubertCtcConfig
from fairseq.registry import REGISTRIES
from fairseq.tasks import TASK_DATACLASS_REGISTRY
from fairseq.trainer import Trainer
from generator import waveform
from omegaconf import DictConfig, OmegaConf, open_dict
from recording import (
    SPEECH,
    UTTERANCE,
    UTTERANCES,
    Run,
    Stages,
    command_line,
    compute,
    describe,
    fill,
    in_double,
    pad,
    provenance,
    query_entropy,
    state_rms,
    write,
    write_case,
)
from torch import Tensor, nn
from torch.nn import functional as F

HERE = Path(__file__).resolve().parent
# --------------------------------------------------------------------------------------------------------------------
# fairseq: configurations, models, stages

LABELS = tuple("01234567")  # the k-means classes of the HuBERT cases


def prepare() -> None:
    """Settles what the results or the output would otherwise depend on; call it first."""
    # fairseq's loader calls torch.load without `weights_only`; it only ever reads files that these makers wrote.
    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")


def conv_layers(channels: int) -> str:
    """The seven convolutions of every released model, with fewer channels, in fairseq's notation."""
    return f"[({channels}, 10, 5)] + [({channels}, 3, 2)] * 4 + [({channels}, 2, 2)] * 2"


def make_config(model: dict[str, Any], task: dict[str, Any], **common: Any) -> DictConfig:
    """Builds fairseq's whole configuration from its own dataclasses: typed nodes, enums and unresolved references.

    Args:
        model: Fields of the model's dataclass, `_name` among them; the others keep fairseq's defaults.
        task: The same for the task.
        **common: Fields of the section `common`.

    Returns:
        The configuration as training code sees it, with Adam at learning rate 0 so that an update fills the
        optimiser's state and leaves the weights as they are.
    """
    criterion: dict[str, Any] = {"_name": "hubert"}
    if model["_name"].endswith("_ctc"):
        criterion = {"_name": "ctc"}
    elif model["_name"] == "wav2vec2":
        criterion = {"_name": "wav2vec", "infonce": True}
    sections = {
        "model": (MODEL_DATACLASS_REGISTRY, model),
        "task": (TASK_DATACLASS_REGISTRY, task),
        "criterion": (REGISTRIES["criterion"]["dataclass_registry"], criterion),
        "optimizer": (REGISTRIES["optimizer"]["dataclass_registry"], {"_name": "adam"}),
        "lr_scheduler": (REGISTRIES["lr_scheduler"]["dataclass_registry"], {"_name": "fixed"}),
    }
    config = OmegaConf.structured(FairseqConfig)
    for section, (registry, fields) in sections.items():
        config[section] = registry[fields["_name"]](**fields)
    for section in set(config) - {"_name", *sections}:
        if section in REGISTRIES or section == "bpe" or section == "tokenizer" or section == "scoring":
            config[section] = None
    config.common.cpu = True
    for field, value in common.items():
        config.common[field] = value
    config.optimization.lr = [0.0]
    return config


def plain(config: DictConfig) -> dict[str, Any]:
    """Model and task section of a configuration as plain values, references resolved, enum members as strings."""
    resolved = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
    model, task = resolved["model"], resolved["task"]
    if model.get("w2v_args"):
        model["w2v_args"] = {section: model["w2v_args"][section] for section in ("model", "task")}
    return {"model": model, "task": task}


def make_dictionary(symbols: Sequence[str]) -> Dictionary:
    """A fairseq Dictionary: four specials, then `symbols`."""
    dictionary = Dictionary()
    for count, symbol in enumerate(symbols):
        dictionary.add_symbol(symbol, n=1000 - count)
    return dictionary


def build(config: DictConfig, seed: int, scale: str) -> tuple[tasks.FairseqTask, nn.Module]:
    """Builds a pre-training model through its task, as training does, and gives it generated weights."""
    task = tasks.setup_task(config.task)
    if config.task._name == "hubert_pretraining":
        task.state.merge_state_dict({"dictionaries": [make_dictionary(LABELS)]})
    model = task.build_model(config.model)
    return task, fill(model, seed, scale)


def extract(model: nn.Module, source: Tensor, padding_mask: Tensor | None, layer: int | None = None) -> Any:
    """Calls fairseq's own feature extraction, which differs between the two families.

    Args:
        model: A Wav2Vec2Model or a HubertModel.
        source: Waveforms (B, S).
        padding_mask: (B, S), True where padded, or None.
        layer: Stop after this layer, counted from 1, instead of going through the whole encoder.

    Returns:
        Output (B, T, D) and fairseq's frame mask (B, T), which may be None.
    """
    if type(model).__name__ == "HubertModel":
        return model.extract_features(source, padding_mask=padding_mask, mask=False, output_layer=layer)
    result = model.extract_features(source, padding_mask, mask=False, layer=None if layer is None else layer - 1)
    return result["x"], result["padding_mask"]


def run(model: nn.Module, source: Tensor, padding_mask: Tensor | None = None) -> Stages:
    """Runs fairseq's feature extraction and records its stages with hooks."""
    seen: dict[str, Tensor] = {}
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []

    # Clones, because fairseq sets padded frames of the projection to zero in place afterwards.
    hooks = [
        model.feature_extractor.register_forward_hook(
            lambda module, args, output: seen.update(conv=output.transpose(1, 2).clone())
        ),
        model.post_extract_proj.register_forward_hook(
            lambda module, args, output: seen.update(projection=output.clone())
        ),
        model.encoder.layers[0].register_forward_pre_hook(lambda module, args: inputs.append(args[0])),
    ]
    hooks += [
        layer.register_forward_hook(lambda module, args, output: outputs.append(output[0]))
        for layer in model.encoder.layers
    ]
    try:
        final, frame_mask = extract(model, source, padding_mask)
    finally:
        for hook in hooks:
            hook.remove()
    # Layers see (T, B, D), with a masked frame at the end where fairseq rounds T up to a multiple of two.
    length = final.shape[1]
    states = [state.transpose(0, 1)[:, :length] for state in (inputs[0], *outputs[:-1])]
    return Stages(seen["conv"], seen["projection"], [*states, final], frame_mask)


def normalise(utterance: Tensor, normalize: bool) -> Tensor:
    """What fairseq's dataset does to an utterance (S,) when the task asks for normalisation."""
    return F.layer_norm(utterance, utterance.shape) if normalize else utterance


# --------------------------------------------------------------------------------------------------------------------
# Golden cases

NO_DROPOUT = {
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "dropout_input": 0.0,
    "dropout_features": 0.0,
    "encoder_layerdrop": 0.0,
}
BASE = {
    "extractor_mode": "default",
    "conv_feature_layers": conv_layers(16),
    "conv_bias": False,
    "layer_norm_first": False,
    "encoder_layers": 2,
    "encoder_embed_dim": 32,
    "encoder_ffn_embed_dim": 64,
    "encoder_attention_heads": 4,
    "final_dim": 16,
    **NO_DROPOUT,
}
LARGE = {**BASE, "extractor_mode": "layer_norm", "conv_feature_layers": conv_layers(24), "layer_norm_first": True}
QUANTIZER = {"quantize_targets": True, "latent_vars": 8, "latent_groups": 2, "latent_dim": 0}
WAV2VEC2_TASK = {"_name": "audio_pretraining", "data": "data", "normalize": False}
HUBERT_TASK = {"_name": "hubert_pretraining", "data": "data", "labels": ["km"], "label_rate": 50.0, "normalize": False}
WAV2VEC2 = {"_name": "wav2vec2", **BASE, **QUANTIZER}
WAV2VEC2_LARGE = {"_name": "wav2vec2", **LARGE, **QUANTIZER, "conv_bias": True}
HUBERT = {"_name": "hubert", **BASE}
HUBERT_LARGE = {"_name": "hubert", **LARGE}

CASES: dict[str, tuple[int, dict[str, Any], dict[str, Any]]] = {
    "wav2vec2_post_norm": (11, WAV2VEC2, WAV2VEC2_TASK),
    "wav2vec2_pre_norm": (12, {**WAV2VEC2_LARGE, "encoder_layers": 3}, {**WAV2VEC2_TASK, "normalize": True}),
    "hubert_post_norm": (13, HUBERT, HUBERT_TASK),
    "hubert_pre_norm": (14, HUBERT_LARGE, {**HUBERT_TASK, "normalize": True}),
    "hubert_batch_norm": (15, {**HUBERT, "conv_pos_batch_norm": True}, HUBERT_TASK),
}


def runner(model: nn.Module, normalize: bool) -> tuple[nn.Module, Run, Callable[[Tensor], Tensor]]:
    """What `compute` needs: the model, how to run it, what to do to an utterance before."""
    return model, functools.partial(run, model), functools.partial(normalise, normalize=normalize)


def check_stages(model: nn.Module, normalize: bool) -> None:
    """Proves that the hooks see what fairseq returns: whole encoder, early exits, and the mask rule's frame count."""
    source, padding_mask = pad([normalise(torch.from_numpy(waveform(spec)), normalize) for spec in UTTERANCES])
    with torch.no_grad():
        for batch, mask in ((source, padding_mask), (source[1:2], None)):
            stages = run(model, batch, mask)
            assert torch.equal(extract(model, batch, mask)[0], stages.states[-1])
            for layer in range(1, len(stages.states) - 1):
                assert torch.equal(extract(model, batch, mask, layer)[0], stages.states[layer])


def attention_entropy(model: nn.Module, normalize: bool) -> list[float]:
    """Mean entropy of each layer's attention on the longest utterance, as a fraction of that of even attention."""
    longest = normalise(torch.from_numpy(waveform(max(UTTERANCES, key=lambda spec: spec["samples"]))), normalize)
    return query_entropy(model.encoder.layers, lambda: extract(model, longest[None], None))


def make_golden(out: Path) -> None:
    """Writes `<case>_<scale>.json` and `.npz` for every case and both scales."""
    for case, (seed, model_fields, task_fields) in CASES.items():
        for scale in ("usual", "lively"):
            config = make_config(model_fields, task_fields)
            _, model = build(config, seed, scale)
            normalize = bool(config.task.normalize)
            check_stages(model, normalize)
            arrays, frames = compute(*runner(model, normalize), torch.float32)
            double = in_double(build(config, seed, scale)[1])
            exact, exact_frames = compute(*runner(double, normalize), torch.float64)
            assert frames == exact_frames
            if config.model._name == "hubert":
                assert frames["padded"] != frames["single"]  # or the two rules for padded frames would look the same
            else:
                assert frames["padded"] == frames["single"]
            about = {
                "case": f"{case}_{scale}",
                "family": str(config.model._name),
                **provenance(versions(), "make_fairseq.py golden"),
                "notes": "fairseq as installed, nothing patched; dropouts 0, eval mode",
                "config": plain(config),
                "normalize": normalize,
                "seed": seed,
                "scale": scale,
            }
            write_case(
                out,
                about,
                model,
                arrays,
                exact,
                frames,
                {
                    "attention_entropy": attention_entropy(build(config, seed, scale)[1], normalize),
                    "state_rms": state_rms(arrays, config.model.encoder_layers),
                },
            )


def versions() -> dict[str, Any]:
    """What made the data."""
    return recording.versions("fairseq-fixed", version=str(fairseq.__version__), omegaconf=omegaconf.__version__)


# --------------------------------------------------------------------------------------------------------------------
# Tiny checkpoints in the ways fairseq has pickled them over the years

TRAINING = {"file": SPEECH[0], "start": 60000, "samples": 16000}  # long enough for fairseq's masking
LETTERS = tuple("|ETAONIHSRDLUMWCFGYPBVK'XJQZ")
TINY = {
    "conv_feature_layers": conv_layers(8),
    "encoder_layers": 1,
    "encoder_embed_dim": 16,
    "encoder_ffn_embed_dim": 16,
    "encoder_attention_heads": 2,
    "final_dim": 8,
}
TINY_WAV2VEC2 = {**WAV2VEC2, **TINY, "latent_vars": 4, "num_negatives": 4}
TINY_WAV2VEC2_LARGE = {**WAV2VEC2_LARGE, **TINY, "latent_vars": 4, "num_negatives": 4}
TINY_HUBERT = {**HUBERT, **TINY}
TINY_HUBERT_LARGE = {**HUBERT_LARGE, **TINY}
NORMALIZED = {"normalize": True}


class _NamingPickler(pickle._Pickler):
    """Writes fairseq's enum classes by name.

    `ChoiceEnum` calls every class it makes "Choices" and keeps none of them under that name, so Python refuses to
    pickle them unless the name happens to be bound. Files that hold them exist; this writes what those files hold.
    """

    def save_global(self, obj: Any, name: str | None = None) -> None:
        if isinstance(obj, type) and issubclass(obj, constants.StrEnum):
            self.write(pickle.GLOBAL + f"{obj.__module__}\n{obj.__qualname__}\n".encode())
            self.memoize(obj)
        else:
            super().save_global(obj, name)


def save_with_enums(state: dict[str, Any], path: Path) -> None:
    """Saves a checkpoint whose configuration still holds enum classes."""
    naming = types.ModuleType("naming")
    naming.Pickler = _NamingPickler
    torch.save(state, path, pickle_module=naming)


def make_namespace(model: dict[str, Any], task: dict[str, Any], **others: Any) -> argparse.Namespace:
    """The flat namespace that fairseq's own command line makes of these fields."""
    names = {"arch": model["_name"], "task": task["_name"], "criterion": "wav2vec", "optimizer": "adam"}
    words = [task["data"], "--cpu", "--infonce", "--lr", "0.0", "--lr-scheduler", "fixed"]
    for name, value in {**names, **model, **task, **others}.items():
        if name in ("_name", "data") or value is False:
            continue
        words += [f"--{name.replace('_', '-')}"] + ([] if value is True else [str(value)])
    return options.parse_args_and_arch(options.get_training_parser(), words)


def train(config: DictConfig, task: tasks.FairseqTask, model: nn.Module, *, update: bool = False) -> Trainer:
    """Puts a model into fairseq's trainer, with one update at learning rate 0 if its optimiser is to have a state."""
    trainer = Trainer(config, task, model, task.build_criterion(config.criterion))
    if update:
        source = torch.from_numpy(waveform(TRAINING))[None]
        sample: dict[str, Any] = {
            "id": torch.tensor([0]),
            "net_input": {"source": source, "padding_mask": torch.zeros_like(source, dtype=torch.bool)},
        }
        if config.task._name == "hubert_pretraining":
            labels = torch.from_numpy(np.arange(50) % 8 + 4)[None]
            sample |= {"target_list": [labels], "target_lengths_list": [torch.tensor([50])], "ntokens_list": [50]}
        before = {name: value.clone() for name, value in model.state_dict().items()}
        trainer.train_step([sample])
        assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    trainer.consolidate_optimizer()
    return trainer


def reload(path: Path, model: nn.Module) -> nn.Module:
    """The model that fairseq reads from a file; it has to hold every tensor of `model`, a teacher's under _ema too."""
    with contextlib.redirect_stdout(io.StringIO()):  # fairseq prints models that it fine-tunes
        (loaded,), _ = checkpoint_utils.load_model_ensemble([str(path)], {"data": "data"})
    actual, expected = loaded.state_dict(), model.state_dict()
    assert actual.keys() == expected.keys()
    for state in (actual, expected):
        state.update({f"_ema.{key}": value for key, value in state.pop("_ema", {}).items()})
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[key], value) for key, value in expected.items())
    return loaded.eval()


# What fairseq's save_checkpoint adds to the trainer's own extra state.
EXTRA_STATE = {
    "train_iterator": {"version": 2, "epoch": 2, "iterations_in_epoch": 0, "shuffle": True, "len": 1},
    "val_loss": 6.25,
    "best": 6.25,
}


def training_state(trainer: Trainer, **replaced: Any) -> dict[str, Any]:
    """The trainer's own checkpoint, in its own order of keys, with some entries of another era."""
    state = fairseq.utils.move_to_cpu(trainer.state_dict())
    state["extra_state"].update(EXTRA_STATE)
    return {name: replaced.get(name, value) for name, value in state.items()}


def check_named_enums(path: Path, config: DictConfig) -> None:
    """Proves that a checkpoint with enum classes holds `config`, with the missing class bound for the moment."""
    constants.Choices = type("Choices", (str,), {})
    try:
        saved = torch.load(path)["cfg"]
    finally:
        del constants.Choices
    for section in ("model", "task"):
        values = dict(saved[section].items_ex(resolve=False)) if OmegaConf.is_config(saved) else saved[section]
        for field, value in OmegaConf.to_container(config, enum_to_str=True)[section].items():
            node = values[field]
            found = node._value() if isinstance(node, omegaconf.Node) and not OmegaConf.is_config(node) else node
            found = OmegaConf.to_container(found) if OmegaConf.is_config(found) else found
            assert found == value, (path, section, field, found, value)


@dataclass
class _HubertCtcConfig(HubertCtcConfig):
    """fairseq 0.12.3 cannot build its own `hubert_ctc`: the encoder reads a field that the dataclass lacks."""

    autoregressive: bool = False


class Checkpoints:
    """Writes the tiny checkpoints, one method each, and collects what fairseq computes with them."""

    def __init__(self, out: Path, scratch: Path) -> None:
        """Writes into `out`; `scratch` holds the parents of fine-tuned models."""
        self.out, self.scratch = out, scratch
        self.documents: dict[str, Any] = {}
        self.arrays: dict[str, np.ndarray] = {}

    def add(
        self, name: str, about: str, config: DictConfig, model: nn.Module, seed: int, *, reload: bool = True
    ) -> None:
        """Records a file that was written, after fairseq has read it back where it still can.

        Args:
            name: Name of the file.
            about: What is special about it.
            config: Its configuration.
            model: The model that was saved.
            seed: Seed of its weights.
            reload: Whether the fairseq of today can read the file.
        """
        path, state = self.out / name, describe(model)
        if reload:
            # A fine-tuned HuBERT cannot be rebuilt without the dictionary of its parent's labels beside the data.
            make_dictionary(LABELS).save(str(self.scratch / "dict.km.txt"))
            with contextlib.redirect_stdout(io.StringIO()):  # fairseq prints models that it fine-tunes
                (loaded,), _ = checkpoint_utils.load_model_ensemble([str(path)], {"data": str(self.scratch)})
            expected = {key: value.float() for key, value in model.state_dict().items()}
            actual = loaded.state_dict()
            assert expected.keys() == actual.keys()
            assert all(torch.equal(actual[key].float(), value) for key, value in expected.items())
            model = loaded
        model = model.float().eval()
        encoder = model.w2v_encoder.w2v_model if hasattr(model, "w2v_encoder") else model
        normalize = bool(config.task.normalize)
        source = normalise(torch.from_numpy(waveform(UTTERANCE)), normalize)[None]
        with torch.no_grad():
            last = run(encoder, source).states[-1]
            self.arrays[f"{name}/last"] = last[0].numpy()
            if encoder is not model:
                logits = model(source=source, padding_mask=None)["encoder_out"].transpose(0, 1)
                self.arrays[f"{name}/logits"] = logits[0].numpy()
        self.documents[name] = {
            "about": about,
            "family": "hubert" if type(encoder).__name__ == "HubertModel" else "wav2vec2",
            "reloaded_by_fairseq": reload,
            "normalize": normalize,
            "config": plain(config),
            "seed": seed,
            "scale": "lively",
            "state": state,
        }
        print(f"{name}: {path.stat().st_size / 1000 if path.exists() else 0:.0f} kB")

    def pretrained(
        self, seed: int, model: dict[str, Any], task: dict[str, Any], *, update: bool = False, **common: Any
    ) -> tuple[DictConfig, nn.Module, Trainer]:
        """A pre-training run of the current fairseq."""
        config = make_config(model, task, **common)
        fairseq_task, built = build(config, seed, "lively")
        trainer = train(config, fairseq_task, built, update=update)
        return config, built, trainer

    def e0_namespace_legacy(self) -> None:
        args = make_namespace(TINY_WAV2VEC2, WAV2VEC2_TASK, conv_pos=32)
        config = convert_namespace_to_omegaconf(args)
        task, model = build(config, 101, "lively")
        state = training_state(train(config, task, model, update=True))
        keys = ("model", "optimizer_history", "extra_state", "last_optimizer_state")
        name = "e0_namespace_legacy.pt"
        state = {"args": args, **{key: state[key] for key in keys}}
        torch.save(state, self.out / name, _use_new_zipfile_serialization=False)
        self.add(name, "args is a Namespace; legacy stream; Adam state; 32 taps", config, model, 101)

    def e1_dictconfig(self) -> None:
        task = {**WAV2VEC2_TASK, **NORMALIZED}
        config, model, trainer = self.pretrained(102, TINY_WAV2VEC2_LARGE, task)
        name = "e1_dictconfig.pt"
        save_with_enums(training_state(trainer, cfg=config), self.out / name)
        check_named_enums(self.out / name, config)
        self.add(name, "cfg is a structured DictConfig: typed nodes, enum members", config, model, 102, reload=False)

    def e1_omegaconf20(self) -> None:
        task = {**WAV2VEC2_TASK, **NORMALIZED}
        config, model, _ = self.pretrained(103, TINY_WAV2VEC2_LARGE, task)
        name = "e1_omegaconf20.pt"
        self.add(name, "cfg is a DictConfig of omegaconf 2.0.6, untyped", config, model, 103, reload=False)

    def e2_unresolved(self) -> None:
        config, model, trainer = self.pretrained(104, TINY_HUBERT, HUBERT_TASK)
        name = "e2_unresolved.pt"
        save_with_enums(training_state(trainer, cfg=OmegaConf.to_container(config)), self.out / name)
        check_named_enums(self.out / name, config)
        self.add(name, "cfg is a dict with references and enum members left", config, model, 104, reload=False)

    def e3_resolved(self) -> None:
        config, model, trainer = self.pretrained(105, TINY_HUBERT, HUBERT_TASK)
        name = "e3_resolved.pt"
        trainer.save_checkpoint(str(self.out / name), EXTRA_STATE)
        self.add(name, "written by fairseq's trainer as it is; Dictionary in task_state", config, model, 105)

    def fp16(self) -> None:
        task = {**HUBERT_TASK, **NORMALIZED}
        config, model, trainer = self.pretrained(106, TINY_HUBERT_LARGE, task, fp16=True, fp16_no_flatten_grads=True)
        name = "fp16.pt"
        # Not through move_to_cpu, which turns half precision into single on the way to the file.
        state = trainer.state_dict()
        state["extra_state"].update(EXTRA_STATE)
        torch.save(state, self.out / name)
        self.add(name, "half-precision tensors, loss scale in the optimiser's state", config, model, 106)

    def hubert_batch_norm(self) -> None:
        config, model, trainer = self.pretrained(107, {**TINY_HUBERT, "conv_pos_batch_norm": True}, HUBERT_TASK)
        name = "hubert_batch_norm.pt"
        trainer.save_checkpoint(str(self.out / name), EXTRA_STATE)
        self.add(name, "batch norm instead of weight norm in the positional convolution", config, model, 107)

    def vanished_class(self) -> None:
        config, model, trainer = self.pretrained(108, TINY_WAV2VEC2, WAV2VEC2_TASK)
        state = training_state(trainer)
        module = types.ModuleType("retired_toolkit.losses")
        vanished = type("MovingLoss", (), {"__module__": module.__name__})
        module.MovingLoss = vanished
        sys.modules.update({"retired_toolkit": types.ModuleType("retired_toolkit"), module.__name__: module})
        instance = vanished()
        instance.history, instance.buffer = [6.5, 6.25], torch.zeros(2)
        state["criterion"] = instance
        state["extra_state"]["loss"] = {"object": instance, "class": vanished}
        name = "vanished_class.pt"
        torch.save(state, self.out / name)
        del sys.modules["retired_toolkit"], sys.modules[module.__name__]
        self.add(name, "criterion and extra_state hold a class that exists no more", config, model, 108, reload=False)

    def finetuned(
        self, seed: int, model: dict[str, Any], task: dict[str, Any], parent: Path
    ) -> tuple[DictConfig, nn.Module, Trainer]:
        """A CTC fine-tuning run of the current fairseq that starts from `parent`; letters as labels."""
        config = make_config({**model, "w2v_path": str(parent), "mask_prob": 0.0}, task)
        fairseq_task = tasks.setup_task(config.task)
        fairseq_task.state.merge_state_dict({"target_dictionary": make_dictionary(LETTERS)})
        with contextlib.redirect_stdout(io.StringIO()):
            built = fill(fairseq_task.build_model(config.model), seed, "lively")
        trainer = train(config, fairseq_task, built)
        with open_dict(config):
            config.model.w2v_args = built.cfg.w2v_args
            config.model.w2v_path = "/checkpoints/parent.pt"
        return config, built, trainer

    def ctc_wav2vec2(self) -> None:
        args = make_namespace(TINY_WAV2VEC2_LARGE, {**WAV2VEC2_TASK, **NORMALIZED})
        parent = self.scratch / "parent.pt"
        parent_config = convert_namespace_to_omegaconf(args)
        task, model = build(parent_config, 1, "usual")
        state = training_state(train(parent_config, task, model))
        torch.save({"args": args, **{key: state[key] for key in ("model", "optimizer_history", "extra_state")}}, parent)
        task_fields = {**WAV2VEC2_TASK, **NORMALIZED, "_name": "audio_finetuning", "labels": "ltr"}
        config, model, trainer = self.finetuned(109, {"_name": "wav2vec_ctc"}, task_fields, parent)
        state = training_state(trainer)
        state["cfg"]["model"]["w2v_args"] = args
        name = "ctc_wav2vec2.pt"
        torch.save(state, self.out / name)
        self.add(name, "fine-tuned; cfg.model.w2v_args is a Namespace", config, model, 109)

        flat = argparse.Namespace(**vars(args))
        for field, value in state["cfg"]["model"].items():
            setattr(flat, field, value)
        flat.arch, flat.task, flat.criterion, flat.labels = "wav2vec_ctc", "audio_pretraining", "ctc", "ltr"
        flat.w2v_args = args
        keys = ("model", "optimizer_history", "extra_state", "last_optimizer_state")
        name = "e0_ctc_wav2vec2.pt"
        torch.save({"args": flat, **{key: state[key] for key in keys}}, self.out / name)
        self.add(name, "fine-tuned; args.w2v_args is a Namespace", config, model, 109, reload=False)

    def ctc_hubert(self) -> None:
        MODEL_DATACLASS_REGISTRY["hubert_ctc"] = _HubertCtcConfig
        fields = {**HUBERT_TASK, "fine_tuning": True, "labels": ["ltr"], "label_rate": -1.0}
        config, model, trainer = self.finetuned(110, {"_name": "hubert_ctc"}, fields, self.out / "e3_resolved.pt")
        cfg = OmegaConf.to_container(config, enum_to_str=True)
        del cfg["model"]["autoregressive"]
        name = "ctc_hubert.pt"
        torch.save(training_state(trainer, cfg=cfg), self.out / name)
        self.add(name, "fine-tuned; cfg.model.w2v_args is a dict; references left", config, model, 110)


def make_checkpoints(out: Path) -> None:
    """Writes every tiny checkpoint but e1_omegaconf20.pt (make_omegaconf20.py), and what fairseq computes with all."""
    with tempfile.TemporaryDirectory() as scratch:
        files = Checkpoints(out, Path(scratch))
        makers: list[Callable[[], None]] = [
            files.e0_namespace_legacy,
            files.e1_dictconfig,
            files.e1_omegaconf20,
            files.e2_unresolved,
            files.e3_resolved,
            files.fp16,
            files.hubert_batch_norm,
            files.vanished_class,
            files.ctc_wav2vec2,
            files.ctc_hubert,
        ]
        for maker in makers:
            maker()
    document = {
        **provenance(versions(), "make_fairseq.py checkpoints"),
        "utterance": UTTERANCE,
        "files": files.documents,
    }
    assert all(np.isfinite(value).all() for value in files.arrays.values())
    write(out / "expected", document, files.arrays)


def main(argv: Sequence[str] | None = None) -> None:
    """Command line of the maker."""
    prepare()
    command_line(
        __doc__,
        {"golden": (make_golden, HERE / "data"), "checkpoints": (make_checkpoints, HERE.parent / "data")},
        argv,
    )


if __name__ == "__main__":
    main()
