"""Checkpoints that fairseq writes, of every era.

The configuration is an argparse Namespace, an omegaconf DictConfig, or a plain dict with or without references.
Pre-trained models and CTC models fine-tuned from them. Facts from fairseq `checkpoint_utils.py`, `wav2vec2.py`,
`wav2vec2_asr.py`, `hubert.py`, `hubert_asr.py` (3d262bb2, MIT) and their history.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from zoo._registry import families
from zoo.converters._dialect import Dialect, Reading
from zoo.converters._fields import parse_conv_layers, resolve
from zoo.converters._rows import Row
from zoo.converters._unpickle import LazyTensor, TorchFile
from zoo.errors import CheckpointError
from zoo.models._family import Family
from zoo.models._speech_encoder import SpeechEncoderConfig

# Prefix of a pre-trained encoder inside the model that was fine-tuned from it.
NESTED = "w2v_encoder.w2v_model."

EXTRACTOR_NORMS = {"default": "group", "layer_norm": "layer"}
SOME_ROWS = {
    "group": (Row("feature_extractor.conv_layers.0.2.{wb}", "feature_extractor.conv_layers.0.layer_norm.{wb}"),),
    "layer": (Row("feature_extractor.conv_layers.{m}.2.1.{wb}", "feature_extractor.conv_layers.{m}.layer_norm.{wb}"),),
    "weight": (
        Row("encoder.pos_conv.0.bias", "encoder.pos_conv_embed.conv.bias"),
        Row("encoder.pos_conv.0.weight_g", "encoder.pos_conv_embed.conv.weight_g"),
        Row("encoder.pos_conv.0.weight_v", "encoder.pos_conv_embed.conv.weight_v"),
    ),
    "batch": (
        Row("encoder.pos_conv.0.{bn}", "encoder.pos_conv_embed.batch_norm.{bn}"),
        Row("encoder.pos_conv.1.{wb}", "encoder.pos_conv_embed.conv.{wb}"),
    ),
}
ENCODER_ROWS = (
    Row("mask_emb", "masked_spec_embed"),
    Row("feature_extractor.conv_layers.{m}.0.{wb}", "feature_extractor.conv_layers.{m}.conv.{wb}"),
    Row("layer_norm.{wb}", "feature_projection.layer_norm.{wb}"),
    Row("post_extract_proj.{wb}", "feature_projection.projection.{wb}"),
    Row("encoder.layer_norm.{wb}", "encoder.layer_norm.{wb}"),
    Row("encoder.layers.{n}.self_attn.{qkvo}_proj.{wb}", "encoder.layers.{n}.attention.{qkvo}_proj.{wb}"),
    Row("encoder.layers.{n}.self_attn_layer_norm.{wb}", "encoder.layers.{n}.layer_norm.{wb}"),
    Row("encoder.layers.{n}.fc1.{wb}", "encoder.layers.{n}.feed_forward.intermediate_dense.{wb}"),
    Row("encoder.layers.{n}.fc2.{wb}", "encoder.layers.{n}.feed_forward.output_dense.{wb}"),
    Row("encoder.layers.{n}.final_layer_norm.{wb}", "encoder.layers.{n}.final_layer_norm.{wb}"),
)
HEAD_ROWS = (
    Row("final_proj.{wb}", "heads.final_proj.{wb}"),
    Row("project_q.{wb}", "heads.project_q.{wb}"),
    Row("quantizer.{rest}", "heads.quantizer.{rest}"),
    Row("target_glu.{rest}", "heads.target_glu.{rest}"),
)
CTC_ROW = Row("w2v_encoder.proj.{wb}", "heads.ctc_proj.{wb}")

# Values of fairseq's own fields under which its forward pass is the one built here; absent fields have the first.
REQUIRED: Mapping[str, tuple[Any, ...]] = {
    "activation_fn": ("gelu",),
    "layer_type": ("transformer",),
    "pos_conv_depth": (1,),
    "quantize_input": (False,),
    "crop_seq_to_multiple": (1,),
}

OVERRIDDEN = ("dropout", "attention_dropout", "activation_dropout", "dropout_input")


def recognise(file: TorchFile) -> bool:
    """Whether the top level is fairseq's: a model beside a configuration and the trainer's state."""
    root = file.root
    return (
        isinstance(root, Mapping)
        and isinstance(root.get("model"), Mapping)
        and (isinstance(root.get("args"), Mapping) or isinstance(root.get("cfg"), Mapping))
        and ("args" in root or "optimizer_history" in root or "extra_state" in root)
    )


def read(file: TorchFile) -> Reading:
    """Read a fairseq checkpoint.

    Raises:
        CheckpointError: when its configuration is missing, contradictory, or of a model that is not supported.
    """
    root: Mapping[str, Any] = file.root
    outer = _sections(root["cfg"] if isinstance(root.get("cfg"), Mapping) else root["args"])
    inner, nested = outer, any(key.startswith(NESTED) for key in root["model"])
    if nested:
        arguments = outer["model"].get("w2v_args")
        if not isinstance(arguments, Mapping):
            raise CheckpointError(
                "the fine-tuned model does not say how its encoder was built (w2v_args is missing); "
                "convert a copy that was saved again with w2v_args filled in"
            )
        inner = _sections(arguments)

    def get(name: str, default: Any) -> Any:
        """A field of the encoder's configuration; dropouts as they were while fine-tuning."""
        places = [outer["model"], inner["model"]] if name in OVERRIDDEN else [inner["model"]]
        for place in places:
            if (value := resolve(place.get(name), inner, outer)) is not None:
                return value
        return default

    family = _family(inner, outer, root["model"])
    for name, allowed in REQUIRED.items():
        if (value := get(name, allowed[0])) not in allowed:
            raise CheckpointError(f"{name} is {value!r}, which the {family.name} models of the zoo do not have")
    symbols = _symbols(root)
    config = SpeechEncoderConfig.from_dict(
        {
            "family": family.name,
            **_encoder_fields(get),
            "normalize": _normalize(inner, outer),
            "symbols": symbols,
            **family.fixed["fairseq"],
        }
    )
    rows = (
        *ENCODER_ROWS,
        *SOME_ROWS[config.extractor_norm],
        *SOME_ROWS[config.pos_conv_norm],
        *HEAD_ROWS,
        *(Row(*pair) for pair in family.rows.get("fairseq", ())),
    )
    if nested:
        rows = (*(Row(NESTED + row.source, row.target) for row in rows), CTC_ROW)
    return Reading(
        config=config,
        tensors=_tensors(root["model"]),
        rows=rows,
        drops=(),
        source_config={"model": outer["model"], "task": outer["task"]},
        extra=_dictionaries(root),
    )


def _sections(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration with its `model` and `task` sections; a flat Namespace is both at once."""
    if isinstance(config.get("model"), Mapping):
        return {**config, "task": config.get("task") or {}}
    return {"model": config, "task": config}


def _family(inner: Mapping[str, Any], outer: Mapping[str, Any], tensors: Mapping[str, Any]) -> Family:
    """The family that the configuration names, else the one whose own tensors are there."""
    names = [section["model"].get(field) for section in (inner, outer) for field in ("_name", "arch")]
    for name in names:
        for family in families().values():
            if name in family.names.get("fairseq", ()):
                return family
    own = [f for f in families().values() if any(source in tensors for source, _ in f.rows.get("fairseq", ()))]
    if len(own) == 1:
        return own[0]
    found = next((repr(name) for name in names if name), "no name")
    known = sorted(n for family in families().values() for n in family.names.get("fairseq", ()))
    raise CheckpointError(f"the model is {found} in fairseq's terms; supported are {', '.join(known)}")


def _encoder_fields(get: Callable[[str, Any], Any]) -> dict[str, Any]:
    """Fields of `SpeechEncoderConfig` from fairseq's; the defaults are those of fairseq's own configuration class."""
    mode = get("extractor_mode", "default")
    if mode not in EXTRACTOR_NORMS:
        raise CheckpointError(f"extractor_mode is {mode!r}; expected one of {', '.join(EXTRACTOR_NORMS)}")
    return {
        "conv_layers": parse_conv_layers(
            get("conv_feature_layers", "[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2")
        ),
        "extractor_norm": EXTRACTOR_NORMS[mode],
        "conv_bias": get("conv_bias", False),
        "num_layers": get("encoder_layers", 12),
        "width": get("encoder_embed_dim", 768),
        "ffn_width": get("encoder_ffn_embed_dim", 3072),
        "num_heads": get("encoder_attention_heads", 12),
        "norm_first": get("layer_norm_first", False),
        "pos_conv_kernel": get("conv_pos", 128),
        "pos_conv_groups": get("conv_pos_groups", 16),
        "pos_conv_norm": "batch" if get("conv_pos_batch_norm", False) else "weight",
        "dropout": get("dropout", 0.1),
        "attention_dropout": get("attention_dropout", 0.1),
        "activation_dropout": get("activation_dropout", 0.0),
        "input_dropout": get("dropout_input", 0.0),
    }


def _normalize(inner: Mapping[str, Any], outer: Mapping[str, Any]) -> bool:
    """Whether waveforms are normalised; every place that says so must agree, as fairseq itself insists."""
    places = (outer["task"], inner["task"], outer["model"])
    said = {
        value
        for place in places
        if isinstance(value := resolve(place.get("normalize"), inner if place is inner["task"] else outer, outer), bool)
    }
    if len(said) > 1:
        raise CheckpointError("the configuration says both normalize = true and normalize = false; it must agree")
    return said.pop() if said else False


def _symbols(root: Mapping[str, Any]) -> list[str] | None:
    """Output symbols of a CTC head, when the file holds its dictionary."""
    dictionary = (root.get("task_state") or {}).get("target_dictionary")
    return dictionary["symbols"] if isinstance(dictionary, Mapping) and "symbols" in dictionary else None


def _dictionaries(root: Mapping[str, Any]) -> dict[str, Any]:
    """Label dictionaries of a HuBERT pre-training run."""
    dictionaries = (root.get("task_state") or {}).get("dictionaries")
    if not isinstance(dictionaries, list):
        return {}
    return {"dictionaries": [d.get("symbols") for d in dictionaries if isinstance(d, Mapping)]}


def _tensors(state: Mapping[str, Any]) -> dict[str, LazyTensor]:
    tensors = {}
    for key, value in state.items():
        if not isinstance(value, LazyTensor):
            raise CheckpointError(f"the model's state dict holds something else than a tensor under {key!r}")
        tensors[key] = value
    return tensors


DIALECT = Dialect(name="fairseq", recognise=recognise, read=read)
