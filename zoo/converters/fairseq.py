"""Checkpoints that fairseq writes, of every era.

The configuration is an argparse Namespace, an omegaconf DictConfig, or a plain dict with or without references.
Pre-trained models and CTC models fine-tuned from them. What is written has no class in its pickle, but is a plain
dictionary; dictionaries of symbols are lists, which is enough for fairseq to build a model. Facts from fairseq
`checkpoint_utils.py`, `wav2vec2.py`, `wav2vec2_asr.py`, `wav2vec2_classification.py`, `hubert.py`, `hubert_asr.py`,
`examples/data2vec` and `examples/wav2vec/unsupervised` (3d262bb2, MIT) and their history.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from zoo._registry import families
from zoo._tensors import cast
from zoo.converters import _fairseq_layout as layout
from zoo.converters._dialect import TOOLKITS_OWN, Checkpoint, Dialect, Export, Keys, Reading
from zoo.converters._fields import look_up, resolve
from zoo.converters._rows import Drop, Row
from zoo.converters._source import Source
from zoo.errors import CheckpointError, shown
from zoo.models._family import Config, Family, typed
from zoo.models._speech_encoder import SpeechEncoderConfig

# Prefix of a pre-trained encoder inside the model that was fine-tuned from it.
NESTED = "w2v_encoder.w2v_model."
HEAD_ROWS = (
    Row("w2v_encoder.proj.{wb}", "heads.ctc_proj.{wb}"),
    Row("pooling_layer.{rest}", "heads.pooling_layer.{rest}"),  # of language identification
)
DROPS = (Drop("_ema.{rest}", "moving average of the weights, the teacher of pre-training"),)
# Where else an encoder stands: under a decoder of text, and under one with an adaptor of lengths between them.
NESTS = ("encoder.w2v_encoder.w2v_model.", NESTED, "encoder.w2v_model.")
AROUND_DROPS = (
    Drop("decoder.{rest}", "the decoder of a sequence-to-sequence model, which is no part of the encoder"),
    Drop("encoder.adaptor.{rest}", "it shortens the encoder's output for a decoder"),
    Drop("encoder.w2v_encoder.proj.{wb}", "it maps the encoder's output to a decoder's width"),
    Drop("encoder.proj.{wb}", "it maps the encoder's output to a decoder's width"),
)

# Fields that fine-tuning sets anew, beside the encoder's own; it may add adapters (MMS).
OVERRIDDEN = ("dropout", "attention_dropout", "activation_dropout", "dropout_input", *layout.ADAPTER_FIELDS)

# What other fields of fairseq's configuration refer to.
SECTIONS: Mapping[str, Any] = {
    "common": {"tpu": False, "seed": 1},
    "optimization": {"max_update": 0},
    "distributed_training": {"ddp_backend": "pytorch_ddp"},
}
# Without these fairseq takes a file for one of its oldest.
TRAINER: Mapping[str, Any] = {
    "optimizer_history": [{"criterion_name": "", "optimizer_name": "", "lr_scheduler_state": {}, "num_updates": 0}],
    "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}},
}
CLASSIFICATION: Mapping[str, Any] = {"_name": "audio_classification", "labels": "lang"}
CONFORMER_DROPOUTS = frozenset({"attention_dropout", "activation_dropout", "conv_dropout"})  # fairseq's blocks have one


def recognise(source: Source) -> bool:
    """Whether the top level is fairseq's: a model beside a configuration and the trainer's state."""
    root = source.root
    return (
        isinstance(root, Mapping)
        and isinstance(root.get("model"), Mapping)
        and (isinstance(root.get("args"), Mapping) or isinstance(root.get("cfg"), Mapping))
        and ("args" in root or "optimizer_history" in root or "extra_state" in root)
    )


def keys(config: Config) -> Iterator[Keys]:
    """How fairseq names the tensors of a model: inside what was fine-tuned from it, or alone."""
    if "fairseq" in families()[config.family].names:
        yield from (_keys(config, nest) for nest in (*NESTS, ""))


def _keys(config: Config, nest: str) -> Keys:
    family = families()[config.family]
    rows = layout.rows(config, family, "fairseq")
    drops = (*DROPS, *(Drop(*pair) for pair in family.drops.get("fairseq", ())))
    if not nest:
        return Keys(rows=rows, drops=drops)
    return Keys(
        rows=(*(Row(nest + row.source, row.target) for row in rows), *HEAD_ROWS),
        drops=(*(Drop(nest + drop.source, drop.reason) for drop in drops), *AROUND_DROPS),
    )


def read(source: Source) -> Reading:
    """Read a fairseq checkpoint.

    Raises:
        CheckpointError: when its configuration is missing, contradictory, or of a model that is not supported.
    """
    root = _with_language(source.root)
    outer = _sections(root["cfg"] if isinstance(root.get("cfg"), Mapping) else root["args"])
    nest = next((prefix for prefix in NESTS if any(str(key).startswith(prefix) for key in root["model"])), "")
    inner = _inner(outer) if nest else outer
    family = _family(inner, outer, root["model"])
    elsewhere = family.places.get("fairseq", {})

    def get(name: str, default: Any) -> Any:
        """A field of the encoder's configuration; dropouts as they were while fine-tuning."""
        name, default = elsewhere.get(name, (name, default))
        places = [outer["model"], inner["model"]] if name in OVERRIDDEN else [inner["model"]]
        for place in places:
            if (value := resolve(look_up(place, name), inner, outer)) is not None:
                return value
        return default

    tensors = layout.tensors(root["model"].items())
    fields: dict[str, Any] = {}
    if issubclass(family.config, SpeechEncoderConfig):
        fields = layout.encoder_fields(get, family.required.get("fairseq"))
        fields |= {"normalize": _normalize(inner, outer), "sample_rate": _sample_rate(inner, outer)}
    fields |= family.own_fields("fairseq", get, {key: tensor.shape for key, tensor in tensors.items()})
    fixed = family.fixed.get("fairseq", {})
    config = family.config.from_dict({"family": family.name, **fields, "symbols": _symbols(root), **fixed})
    names = _keys(config, nest)
    return Reading(
        config=config,
        tensors=tensors,
        rows=names.rows,
        drops=names.drops,
        source_config={"model": outer["model"], "task": outer["task"]},
        extra=_dictionaries(root) | ({"language": root["language"]} if "language" in root else {}),
    )


def write(checkpoint: Checkpoint) -> Export:
    """A model as fairseq's own loader takes it: pre-trained, or fine-tuned if it has a head of that kind."""
    config: Any = checkpoint.config
    family = families()[config.family]
    outer, inner = sections_before(checkpoint)
    fields = layout.model_fields(checkpoint, inner["model"])
    kind, heads = layout.kind(fields), checkpoint.heads()
    tuned = next((head for head in ("pooling_layer", "ctc_proj") if head in heads), None)
    chosen = {tuned, *kind.heads & {"label_embs_concat"}} if tuned else kind.heads
    what = "a fine-tuned model of fairseq" if tuned else f"fairseq's {fields['_name']}"
    rows = _keys(config, NESTED if tuned else "").rows
    written = layout.write_model(checkpoint, fields, rows, chosen, what)
    data = {"data": "."}
    if issubclass(family.config, SpeechEncoderConfig):
        data |= {"normalize": config.normalize, "sample_rate": config.sample_rate}
    state: dict[str, Any] = {} if config.symbols is None else {"target_dictionary": list(config.symbols)}
    task = {**kind.task, **data}
    if fields["_name"] == "hubert":
        state["dictionaries"] = layout.dictionaries(checkpoint, written.made_up)
        task["label_rate"] = fields["label_rate"]
    model, tensors = fields, dict[str, Any](written.tensors)
    if tuned:
        model = _tuned(tuned, checkpoint, kind.ctc, fields, outer["model"]) | {
            "w2v_args": {"model": fields, "task": task}
        }
        task = {**(CLASSIFICATION if tuned == "pooling_layer" else kind.tuning), **data}
    else:
        layout.make_up(written, checkpoint)
        tensors = dict(written.tensors)
        if fields["_name"] == "data2vec_audio":
            teacher = {k.removeprefix("encoder."): t for k, t in tensors.items() if k.startswith("encoder.")}
            tensors["_ema"] = {key: cast(key, tensor, torch.float32) for key, tensor in teacher.items()}
            written.made_up["_ema"] = "the encoder itself, as the loader insists on a teacher"
    cfg = {"_name": None, **SECTIONS, "model": model, "task": task}
    return Export(
        root={"args": None, "cfg": cfg, "model": tensors, **TRAINER, "task_state": state},
        written=written.written,
        dropped=written.dropped,
        made_up=written.made_up,
    )


def _tuned(
    head: str, checkpoint: Checkpoint, name: str, fields: Mapping[str, Any], before: Mapping[str, Any]
) -> dict[str, Any]:
    """The configuration of a fine-tuned model, without that of the encoder in it."""
    config: Any = checkpoint.config
    said = {field: fields[field] for field in OVERRIDDEN if field in fields}
    said |= {"_name": name, "normalize": config.normalize, "layerdrop": config.layerdrop, "w2v_path": ""}
    if head == "pooling_layer":
        said["_name"] = "wav2vec_classification"
        if linear := checkpoint.axes("heads.pooling_layer.linear.weight", 2):
            said["latent_embed_dim"] = linear[0]
        said |= {"pooling": before.get("pooling") or "mean", "activation_fn": before.get("activation_fn") or "gelu"}
    return {**layout.kept_fields(before), **said}


def sections_before(checkpoint: Checkpoint) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Sections of the file that a model came from, if it was fairseq's or like it: of the whole, of its encoder."""
    outer = _sections(checkpoint.source_config("fairseq", "s3prl_converted") or {"model": {}})
    arguments = outer["model"].get("w2v_args")
    return outer, _sections(arguments) if isinstance(arguments, Mapping) else outer


def _with_language(root: Mapping[str, Any]) -> Mapping[str, Any]:
    """The file with the tensors and symbols of its language, where it holds those of languages to choose from (MMS).

    Raises:
        CheckpointError: when there is more than one, since nothing says which one is wanted.
    """
    languages = root.get("adapter")
    if not isinstance(languages, Mapping):
        return root
    if len(languages) != 1:
        raise CheckpointError(
            f"it holds adapters of {len(languages)} languages ({_some(languages)}); "
            "choose one with `python -m zoo.convert --language`"
        )
    ((language, own),) = languages.items()
    if not isinstance(own, Mapping) or not isinstance(own.get("model"), Mapping):
        raise CheckpointError(f"its adapter of the language {shown(language)} holds no tensors; give the original file")
    state = {**_task_state(root), **_task_state(own)}
    return {**root, "model": {**root["model"], **own["model"]}, "task_state": state, "language": str(language)}


def pick(source: Source, language: str) -> None:
    """Leave one language of a file that holds adapters of several.

    Raises:
        CheckpointError: when it has no such language.
    """
    languages = source.root.get("adapter")
    if not isinstance(languages, Mapping):
        raise CheckpointError(
            f"the language {shown(language)} was asked for, but it holds none to choose from; ask for none"
        )
    if language not in languages:
        raise CheckpointError(f"it holds no adapter of the language {shown(language)}; it has {_some(languages)}")
    source.root = {**source.root, "adapter": {language: languages[language]}}


def _some(languages: Mapping[str, Any]) -> str:
    """Names of a few languages."""
    names = sorted(map(str, languages))
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def _sections(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration with its `model` and `task` sections; a flat Namespace is both at once."""
    if isinstance(config.get("model"), Mapping):
        task = config.get("task")
        return {**config, "task": task if isinstance(task, Mapping) else {}}
    return {"model": config, "task": config}


def _inner(outer: Mapping[str, Any]) -> Mapping[str, Any]:
    """Sections of the encoder inside a fine-tuned model; UniSpeech nests its encoder without fine-tuning it."""
    arguments = outer["model"].get("w2v_args")
    if isinstance(arguments, Mapping):
        return _sections(arguments)
    if "encoder_layers" in outer["model"]:
        return outer
    raise CheckpointError(
        "the fine-tuned model does not say how its encoder was built (w2v_args is missing); "
        "convert a copy that was saved again with w2v_args filled in"
    )


def _family(inner: Mapping[str, Any], outer: Mapping[str, Any], tensors: Mapping[str, Any]) -> Family:
    """The family that the configuration names, else the one whose own tensors are there."""
    names = [section["model"].get(field) for section in (inner, outer) for field in ("_name", "arch")]
    default = layout.REQUIRED["layer_type"]
    layer = inner["model"].get("layer_type") or default[0]
    for name in names:
        found = [family for family in families().values() if name in family.names.get("fairseq", ())]
        for family in found:
            if layer in family.required.get("fairseq", {}).get("layer_type", default):
                return family
        if found:
            return found[0]
    tables = [(family, family.rows.get("fairseq", ())) for family in families().values()]
    own = [f for f, rows in tables if not callable(rows) and any(key in tensors for key, _ in rows)]
    if len(own) == 1:
        return own[0]
    said = next((shown(name) for name in names if name), "no name")
    known = sorted({n for family in families().values() for n in family.names.get("fairseq", ())})
    raise CheckpointError(f"the model is {said} in fairseq's terms; supported are {', '.join(known)}")


def _normalize(inner: Mapping[str, Any], outer: Mapping[str, Any]) -> bool:
    """Whether waveforms are normalised; every place that says so must agree, as fairseq itself insists."""
    places = ((outer["task"], outer), (inner["task"], inner), (outer["model"], outer))
    values = (resolve(place.get("normalize"), root, outer) for place, root in places)
    said = {typed("normalize", value, bool) for value in values if value is not None}
    if len(said) > 1:
        raise CheckpointError("the configuration says both normalize = true and normalize = false; it must agree")
    return said.pop() if said else False


def _sample_rate(inner: Mapping[str, Any], outer: Mapping[str, Any]) -> Any:
    """Samples per second that the model was trained with."""
    return resolve(inner["task"].get("sample_rate"), inner, outer) or 16000


def _task_state(root: Mapping[str, Any]) -> Mapping[str, Any]:
    state = root.get("task_state")
    return state if isinstance(state, Mapping) else {}


def _symbols(root: Mapping[str, Any]) -> Any:
    """Output symbols of a CTC head, when the file holds its dictionary."""
    return _listed(_task_state(root).get("target_dictionary"))


def _dictionaries(root: Mapping[str, Any]) -> dict[str, Any]:
    """Label dictionaries of a HuBERT pre-training run."""
    dictionaries = _task_state(root).get("dictionaries")
    found = [_listed(dictionary) for dictionary in dictionaries] if isinstance(dictionaries, list) else []
    known = [symbols for symbols in found if symbols is not None]
    return {"dictionaries": known} if known else {}


def _listed(dictionary: Any) -> Any:
    """The symbols of a dictionary: fairseq's object, or the plain list that is written here."""
    return dictionary.get("symbols") if isinstance(dictionary, Mapping) else dictionary


DIALECT = Dialect(
    name="fairseq",
    recognise=recognise,
    read=read,
    pick=pick,
    keys=keys,
    target="fairseq",
    holds=lambda config: "fairseq" in families()[config.family].says,
    write=write,
    unsaid=TOOLKITS_OWN | CONFORMER_DROPOUTS | {"sample_rate"},
)
