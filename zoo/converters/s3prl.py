"""TERA, Mockingjay and Audio ALBERT as s3prl's trainer writes them: `{"Transformer": ..., "SpecHead": ..., ...}`.

The configuration stands under `Config` (older files, recognised by its `transformer` section) or `Upstream_Config`.
Facts from s3prl `upstream/mockingjay/builder.py` and `pretrain/tera` (ec8064b5, Apache-2.0).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zoo._tensors import Lazy
from zoo.converters._dialect import Checkpoint, Dialect, Export, Reading
from zoo.converters._fields import section
from zoo.converters._rows import Drop, Row, invert
from zoo.converters._source import Source
from zoo.errors import CheckpointError, cut, shown
from zoo.models._family import is_one_of, typed
from zoo.models.tera import TeraConfig

KEYS = (
    Row("input_representations.{rest}", "input_representations.{rest}"),
    Row("encoder.LayerNorm.{n}.{wb}", "encoder.LayerNorm.{n}.{wb}"),
)
LAYER = "encoder.layer.{n}."
PARTS = ("attention.self.{rest}", "attention.output.{rest}", "intermediate.{rest}", "output.{rest}")
SECOND_NAMES = {"": "output.", "attention.": "attention.output."}  # of pre-norm blocks' norms
FIELDS = {  # s3prl's field of a transformer, ours
    "hidden_size": "width",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "intermediate_size": "ffn_width",
    "hidden_act": "activation",
    "share_layer": "share_layers",
    "pre_layer_norm": "norm_first",
    "layer_norm_eps": "norm_eps",
    "hidden_dropout_prob": "dropout",
    "attention_probs_dropout_prob": "attention_dropout",
}
NUMBERS = frozenset({"layer_norm_eps", "hidden_dropout_prob", "attention_probs_dropout_prob"})  # which may be text
# Settings of s3prl's transforms under which they compute what the zoo has; an absent one has that value.
FBANK = {"use_log_fbank": True}


def recognise(source: Source) -> bool:
    """Whether the top level has the encoder's state dict under the trainer's name."""
    return isinstance(source.root, Mapping) and isinstance(source.root.get("Transformer"), Mapping)


def read(source: Source) -> Reading:
    """Read a file of s3prl's trainer.

    Raises:
        CheckpointError: when its configuration is missing, or of a model that is not supported.
    """
    root: Mapping[str, Any] = source.root
    found = _configuration(root)
    config = _config(found)
    rows, drops = _table(config)
    head = root.get("SpecHead")
    tensors = _tensors(root["Transformer"])
    if isinstance(head, Mapping):
        tensors |= {f"heads.{key}": tensor for key, tensor in _tensors(head).items()}
    return Reading(config=config, tensors=tensors, rows=rows, drops=drops, source_config=found)


def _table(config: TeraConfig) -> tuple[tuple[Row, ...], tuple[Drop, ...]]:
    """The key table; the reconstruction head stands under `heads` there."""
    last = f"encoder.layer.{config.num_layers - 1}."
    rows = [Row("heads.{rest}", "heads.{rest}"), *KEYS]
    drops = []
    if config.share_layers:  # s3prl loads all copies into one block, the last one last
        rows += [Row(last + part, "encoder.layer.0." + part) for part in PARTS]
        drops = [
            Drop(f"encoder.layer.{i}.{{rest}}", "a copy of the block that all layers share")
            for i in range(config.num_layers - 1)
        ]
    else:
        rows += [Row(LAYER + part, LAYER + part) for part in PARTS]
    if config.norm_first:
        again = "the norm of a sub-layer under its second name"
        block = last if config.share_layers else LAYER
        drops += [Drop(f"{block}{key}LayerNorm.{{wb}}", again) for key in SECOND_NAMES]
    return tuple(rows), tuple(drops)


def write(checkpoint: Checkpoint) -> Export:
    """A file as s3prl's trainer writes it, without what only training needs."""
    config: Any = checkpoint.config
    keys = invert(_table(config)[0], checkpoint.tensors)
    state = {key: checkpoint.tensors[name] for name, key in keys.items() if not name.startswith("heads.")}
    if config.norm_first:
        for key in [key for key in state if key.startswith("encoder.layer.")]:
            for second, first in SECOND_NAMES.items():
                block, found, rest = key.partition(f".{first}LayerNorm.")
                if found and block.removeprefix("encoder.layer.").isdecimal():
                    state[f"{block}.{second}LayerNorm.{rest}"] = state[key]
    if config.share_layers:
        last = f"encoder.layer.{config.num_layers - 1}."
        for key in [key for key in state if key.startswith(last)]:
            for layer in range(config.num_layers - 1):
                state[f"encoder.layer.{layer}." + key.removeprefix(last)] = state[key]
    head = {name.removeprefix("heads."): t for name, t in checkpoint.tensors.items() if name.startswith("heads.")}
    root = {"Config": _said(checkpoint, config), "Transformer": state, **({"SpecHead": head} if head else {})}
    return Export(root=root, written=keys)


def _said(checkpoint: Checkpoint, config: TeraConfig) -> dict[str, Any]:
    """The inverse of `_config`; what else the configuration of the original file says stays as it is."""
    before = checkpoint.source_config("s3prl")
    audio = {**_target(checkpoint, config), **section(before, "audio"), **_said_audio(config)}
    transformer = {"input_dim": -1, "initializer_range": 0.02, **section(before, "transformer")}
    return {
        "transformer": transformer | {theirs: getattr(config, ours) for theirs, ours in FIELDS.items()},
        "task": {**section(before, "task"), "sequence_length": config.chunk_frames},
        "audio": audio,
    }


def _target(checkpoint: Checkpoint, config: TeraConfig) -> dict[str, Any]:
    """What the head of a model on s3prl's own transform predicts, by its width."""
    output = checkpoint.axes("heads.output.weight", 2)
    wide = (config.frame_samples // 2 + 1) * (config.delta_order + 1)
    kind = "linear" if output and output[0] == wide != config.feature_width else config.features
    return {} if config.kaldi else {"target": _chosen(kind, config)}


def _chosen(kind: str, config: TeraConfig) -> dict[str, Any]:
    return {"feat_type": kind, "channel": 0, "log": True, "delta": config.delta_order, "cmvn": config.cmvn}


def _said_audio(config: TeraConfig) -> dict[str, Any]:
    """The inverse of `_kaldi` and `_online`."""
    if config.kaldi:
        options: dict[str, Any] = {"frame_length": config.frame_length_ms, "frame_shift": config.frame_shift_ms}
        options |= {"num_mel_bins": config.mel_bands} if config.features != "spectrogram" else {}
        options |= {"num_ceps": config.cepstra} if config.features == "mfcc" else {}
        return {
            "kaldi": {"feat_type": config.features, config.features: options},
            "delta": {"order": config.delta_order, "win_length": config.delta_window},
            "cmvn": {"use_cmvn": config.cmvn},
        }
    return {
        "target_level": config.level_db,
        "win_ms": config.frame_length_ms,
        "hop_ms": config.frame_shift_ms,
        "sample_rate": config.sample_rate,
        "n_freq": config.frame_samples // 2 + 1,
        "n_mels": config.mel_bands,
        "input": _chosen(config.features, config),
    }


def _configuration(root: Mapping[str, Any]) -> Mapping[str, Any]:
    """The upstream's configuration, wherever the file has it."""
    for key in ("Config", "Upstream_Config"):
        section = root.get(key)
        if isinstance(section, Mapping) and isinstance(section.get("transformer"), Mapping):
            return section
    if "Settings" in root:
        raise CheckpointError(
            "its configuration stands under Settings, the layout before 2020, which says too little about its "
            "features; give a checkpoint of a later s3prl, which has Config or Upstream_Config"
        )
    raise CheckpointError(
        "neither Config nor Upstream_Config has a transformer section; give the file that s3prl's trainer wrote"
    )


def _config(found: Mapping[str, Any]) -> TeraConfig:
    audio, task = found.get("audio"), found.get("task")
    if not isinstance(audio, Mapping):
        raise CheckpointError(
            "its configuration has no audio section, so its features were extracted beforehand in a way it does not "
            "say; give a checkpoint that was trained from waveforms"
        )
    transformer: Mapping[str, Any] = found["transformer"]
    values = {ours: transformer[theirs] for theirs, ours in FIELDS.items() if theirs in transformer}
    for theirs in NUMBERS & transformer.keys():
        values[FIELDS[theirs]] = _number(transformer[theirs], theirs)
    length = task.get("sequence_length") if isinstance(task, Mapping) else None
    if length is None:
        raise CheckpointError("its configuration has no task.sequence_length, which says how long audio is cut")
    front = _kaldi(audio) if "kaldi" in audio else _online(audio)
    return TeraConfig.from_dict({"family": "tera", **values, "chunk_frames": length, **front})


def _kaldi(audio: Mapping[str, Any]) -> dict[str, Any]:
    """The front end of an `audio` section with Kaldi's features."""
    kaldi = _section(audio, "kaldi")
    kind = kaldi.get("feat_type", "fbank")
    if kind not in ("fbank", "mfcc", "spectrogram"):
        raise CheckpointError(f"audio.kaldi.feat_type is {shown(kind)}; expected fbank, mfcc or spectrogram")
    options = dict(_section(kaldi, kind))
    bands = options.pop("num_mel_bins", 23)
    values = {
        "features": kind,
        "level_db": None,
        "mel_bands": bands,
        "cepstra": options.pop("num_ceps", 13),
        "frame_length_ms": options.pop("frame_length", 25.0),
        "frame_shift_ms": options.pop("frame_shift", 10.0),
    }
    for name, value in options.items():
        if name not in FBANK or not is_one_of(value, (FBANK[name],)):
            raise CheckpointError(
                f"audio.kaldi.{kind}.{cut(str(name))} is {shown(value)}, which this version of zoo does not have"
            )
    delta, cmvn = _section(audio, "delta"), _section(audio, "cmvn")
    if unknown := sorted({*(f"delta.{k}" for k in delta.keys() - {"order", "win_length"}),
                          *(f"cmvn.{k}" for k in cmvn.keys() - {"use_cmvn"})}):  # fmt: skip
        raise CheckpointError(f"audio has {shown(unknown[0])}, which this version of zoo does not have")
    return values | {
        "delta_order": delta.get("order", 2),
        "delta_window": delta.get("win_length", 5),
        "cmvn": cmvn.get("use_cmvn", True),
    }


def _online(audio: Mapping[str, Any]) -> dict[str, Any]:
    """The front end of an `audio` section with s3prl's own transform; the defaults are its."""
    chosen = _section(audio, "input")
    kind = chosen.get("feat_type")
    if kind not in ("mel", "linear"):
        raise CheckpointError(f"audio.input.feat_type is {shown(kind)}; this version of zoo has mel and linear")
    if not typed("log", chosen.get("log", False), bool):
        raise CheckpointError("audio.input.log is off; this version of zoo has logarithmic features alone")
    if "target_level" not in audio:
        raise CheckpointError("audio has no target_level, to which s3prl brings every utterance")
    window, rate, bins = audio.get("win_ms", 25), audio.get("sample_rate", 16000), audio.get("n_freq", 201)
    config = {
        "features": kind,
        "level_db": audio["target_level"],
        "mel_bands": audio.get("n_mels", 40),
        "delta_order": chosen.get("delta", 0),
        "cmvn": chosen.get("cmvn", False),
        "frame_length_ms": window,
        "frame_shift_ms": audio.get("hop_ms", 10),
        "sample_rate": rate,
    }
    for name, value in (("win_ms", window), ("sample_rate", rate), ("n_freq", bins)):
        if type(value) not in (int, float) or not abs(value) < 1e9:
            raise CheckpointError(f"audio.{name} is {shown(value)}; expected a number")
    if (bins - 1) * 2 != round(window * rate / 1000):
        raise CheckpointError(
            f"audio.n_freq is {shown(bins)} beside win_ms {shown(window)}; "
            "this version of zoo has transforms as long as the window"
        )
    return config


def _section(section: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = section.get(name, {})
    if not isinstance(value, Mapping):
        raise CheckpointError(f"audio.{name} is {shown(value)} instead of a section")
    return value


def _number(value: Any, name: str) -> Any:
    """A number; s3prl accepts text such as "1e-12" too, which YAML does not take for a number."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        raise CheckpointError(f"transformer.{name} is {shown(value)}; expected a number") from None


def _tensors(state: Mapping[Any, Any]) -> dict[str, Lazy]:
    """The tensors of a state dict; very old names of a norm's parameters become today's, as s3prl's loader does it."""
    found = {}
    for key, tensor in state.items():
        if not isinstance(key, str) or not isinstance(tensor, Lazy):
            raise CheckpointError(f"a state dict holds something else than a tensor under {shown(key)}")
        name = key.replace("gamma", "weight").replace("beta", "bias")
        if name in found:
            raise CheckpointError(f"a state dict holds {shown(name)} under two names")
        found[name] = tensor
    return found


DIALECT = Dialect(
    name="s3prl",
    recognise=recognise,
    read=read,
    target="s3prl",
    holds=lambda config: config.family == "tera",
    write=write,
)
