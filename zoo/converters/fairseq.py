"""Checkpoints that fairseq writes, of every era.

The configuration is an argparse Namespace, an omegaconf DictConfig, or a plain dict with or without references.
Pre-trained models and CTC models fine-tuned from them. Facts from fairseq `checkpoint_utils.py`, `wav2vec2.py`,
`wav2vec2_asr.py`, `hubert.py`, `hubert_asr.py`, `examples/data2vec` and `examples/wav2vec/unsupervised` (3d262bb2,
MIT) and their history.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zoo._registry import families
from zoo.converters import _fairseq_layout as layout
from zoo.converters._dialect import Dialect, Reading
from zoo.converters._fields import look_up, resolve
from zoo.converters._rows import Drop, Row
from zoo.converters._source import Source
from zoo.errors import CheckpointError, shown
from zoo.models._family import Family, typed
from zoo.models._speech_encoder import SpeechEncoderConfig

# Prefix of a pre-trained encoder inside the model that was fine-tuned from it.
NESTED = "w2v_encoder.w2v_model."
HEAD_ROWS = (
    Row("w2v_encoder.proj.{wb}", "heads.ctc_proj.{wb}"),
    Row("pooling_layer.{rest}", "heads.pooling_layer.{rest}"),  # of language identification
)
DROPS = (Drop("_ema.{rest}", "moving average of the weights, the teacher of pre-training"),)

# Fields that fine-tuning sets anew, beside the encoder's own; it may add adapters (MMS).
ADAPTER_FIELDS = ("layer_type", "adp_num", "adp_dim", "adp_act_fn", "adp_trf_idx")
OVERRIDDEN = ("dropout", "attention_dropout", "activation_dropout", "dropout_input", *ADAPTER_FIELDS)


def recognise(source: Source) -> bool:
    """Whether the top level is fairseq's: a model beside a configuration and the trainer's state."""
    root = source.root
    return (
        isinstance(root, Mapping)
        and isinstance(root.get("model"), Mapping)
        and (isinstance(root.get("args"), Mapping) or isinstance(root.get("cfg"), Mapping))
        and ("args" in root or "optimizer_history" in root or "extra_state" in root)
    )


def read(source: Source) -> Reading:
    """Read a fairseq checkpoint.

    Raises:
        CheckpointError: when its configuration is missing, contradictory, or of a model that is not supported.
    """
    root = _with_language(source.root)
    outer = _sections(root["cfg"] if isinstance(root.get("cfg"), Mapping) else root["args"])
    nested = any(str(key).startswith(NESTED) for key in root["model"])
    inner = _inner(outer) if nested else outer
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
        fields = layout.encoder_fields(get, family.required.get("fairseq")) | {"normalize": _normalize(inner, outer)}
    fields |= family.own_fields("fairseq", get, {key: tensor.shape for key, tensor in tensors.items()})
    fixed = family.fixed.get("fairseq", {})
    config = family.config.from_dict({"family": family.name, **fields, "symbols": _symbols(root), **fixed})
    rows = layout.rows(config, family, "fairseq")
    drops = (*DROPS, *(Drop(*pair) for pair in family.drops.get("fairseq", ())))
    if nested:
        rows = (*(Row(NESTED + row.source, row.target) for row in rows), *HEAD_ROWS)
        drops = tuple(Drop(NESTED + drop.source, drop.reason) for drop in drops)
    return Reading(
        config=config,
        tensors=tensors,
        rows=rows,
        drops=drops,
        source_config={"model": outer["model"], "task": outer["task"]},
        extra=_dictionaries(root) | ({"language": root["language"]} if "language" in root else {}),
    )


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
            f"it holds adapters of {len(languages)} languages to choose from; "
            "save a copy whose 'adapter' holds the one language that you want"
        )
    ((language, own),) = languages.items()
    if not isinstance(own, Mapping) or not isinstance(own.get("model"), Mapping):
        raise CheckpointError(f"its adapter of the language {shown(language)} holds no tensors; give the original file")
    state = {**_task_state(root), **_task_state(own)}
    return {**root, "model": {**root["model"], **own["model"]}, "task_state": state, "language": str(language)}


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


def _task_state(root: Mapping[str, Any]) -> Mapping[str, Any]:
    state = root.get("task_state")
    return state if isinstance(state, Mapping) else {}


def _symbols(root: Mapping[str, Any]) -> list[str] | None:
    """Output symbols of a CTC head, when the file holds its dictionary."""
    dictionary = _task_state(root).get("target_dictionary")
    return dictionary["symbols"] if isinstance(dictionary, Mapping) and "symbols" in dictionary else None


def _dictionaries(root: Mapping[str, Any]) -> dict[str, Any]:
    """Label dictionaries of a HuBERT pre-training run."""
    dictionaries = _task_state(root).get("dictionaries")
    if not isinstance(dictionaries, list):
        return {}
    return {"dictionaries": [d.get("symbols") for d in dictionaries if isinstance(d, Mapping)]}


DIALECT = Dialect(name="fairseq", recognise=recognise, read=read)
