"""Hugging Face folders: base, pre-training, CTC and other head classes, with and without the family's prefix.

The zoo's parameter names are those of the base models, so most rows say the same on both sides. Facts from
transformers 5.23 (Apache-2.0): `configuration_*.py`, `modeling_*.py`, `feature_extraction_wav2vec2.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zoo._registry import families
from zoo.converters._dialect import Dialect, Reading
from zoo.converters._rows import Drop, Row
from zoo.converters._source import Folder, Source
from zoo.errors import CheckpointError, shown
from zoo.models._family import Family, is_one_of, typed

NORMALIZE_EPS = 1e-7  # of the feature extractor, which divides by sqrt(variance + 1e-7)

ENCODER_ROWS = (
    Row("masked_spec_embed", "masked_spec_embed"),
    Row("feature_extractor.conv_layers.{rest}", "feature_extractor.conv_layers.{rest}"),
    Row("feature_projection.{rest}", "feature_projection.{rest}"),
    Row("encoder.layer_norm.{wb}", "encoder.layer_norm.{wb}"),
    Row("encoder.layers.{rest}", "encoder.layers.{rest}"),
    Row("encoder.pos_conv_embed.conv.{wn}", "encoder.pos_conv_embed.conv.{wn}"),
    Row("encoder.pos_conv_embed.conv.parametrizations.weight.original0", "encoder.pos_conv_embed.conv.weight_g"),
    Row("encoder.pos_conv_embed.conv.parametrizations.weight.original1", "encoder.pos_conv_embed.conv.weight_v"),
    Row("encoder.pos_conv_embed.batch_norm.{bn}", "encoder.pos_conv_embed.batch_norm.{bn}"),
    Row("encoder.pos_conv_embed.layers.{m}.conv.{wb}", "encoder.pos_conv_embed.layers.{m}.conv.{wb}"),
)
# Heads by fairseq's names where it has them; the others keep their own.
HEAD_ROWS = (
    Row("lm_head.{wb}", "heads.ctc_proj.{wb}"),
    Row("ctc_proj.{wb}", "heads.ctc_proj.{wb}"),
    Row("quantizer.codevectors", "heads.quantizer.vars"),
    Row("quantizer.weight_proj.{wb}", "heads.quantizer.weight_proj.{wb}"),
    Row("project_hid.{wb}", "heads.final_proj.{wb}"),
    Row("project_q.{wb}", "heads.project_q.{wb}"),
    Row("label_embeddings_concat", "heads.label_embs_concat"),
    Row("speaker_proj.{wb}", "heads.spk_proj.{wb}"),
    Row("layer_norm_for_extract.{wb}", "heads.layer_norm_for_extract.{wb}"),
    Row("projector.{wb}", "heads.projector.{wb}"),
    Row("classifier.{wb}", "heads.classifier.{wb}"),
    Row("layer_weights", "heads.layer_weights"),
    Row("tdnn.{rest}", "heads.tdnn.{rest}"),
    Row("feature_extractor.{wb}", "heads.feature_extractor.{wb}"),  # of an x-vector model, a linear layer
    Row("objective.weight", "heads.objective.weight"),
)
DROPS = (Drop("mask_time_emb_vector", "an early port's second copy of the mask embedding"),)

# Values under which the reference's forward pass is the one built here; an absent field has the first.
REQUIRED: Mapping[str, tuple[Any, ...]] = {
    "hidden_act": ("gelu",),
    "feat_extract_activation": ("gelu",),
    "layer_norm_eps": (1e-5,),
    "add_adapter": (False,),
    "feat_proj_layer_norm": (True, False),
}


def recognise(source: Source) -> bool:
    """Whether it is a folder."""
    return isinstance(source, Folder)


def read(source: Source) -> Reading:
    """Read a Hugging Face folder.

    Raises:
        CheckpointError: when its model is not supported.
    """
    hf: Mapping[str, Any] = source.root["config"]
    family = _family(hf)
    own = family.required.get("huggingface", {})
    for name, allowed in {**REQUIRED, **own}.items():
        default = REQUIRED.get(name, allowed)[0]
        if not is_one_of(value := hf.get(name, default), allowed):
            raise CheckpointError(f"{name} is {shown(value)} in config.json, which this version of zoo does not have")
    norm = hf.get("feat_extract_norm", "layer" if family.name == "data2vec" else "group")
    processor = _processor(source.root)
    # Without a processor file: what every released model's has.
    processor = {"do_normalize": norm == "layer", "return_attention_mask": norm == "layer"} | processor
    tensors = source.root["tensors"]
    config: Any = family.config.from_dict(
        {
            "family": family.name,
            "conv_layers": _conv_layers(hf),
            "extractor_norm": norm,
            "conv_bias": hf.get("conv_bias", False),
            "feature_norm": family.name != "distilhubert",
            "num_layers": hf.get("num_hidden_layers", 12),
            "width": hf.get("hidden_size", 768),
            "ffn_width": hf.get("intermediate_size", 3072),
            "num_heads": hf.get("num_attention_heads", 12),
            "norm_first": hf.get("do_stable_layer_norm", False),
            **_positions(hf),
            **_bias(hf),
            "adapter_width": _adapter_width(hf),
            "normalize": processor["do_normalize"],
            "normalize_eps": NORMALIZE_EPS,
            "padding_rule": "length",
            "attention_mask": processor["return_attention_mask"],
            "sample_rate": processor.get("sampling_rate", 16000),
            "dropout": hf.get("hidden_dropout", 0.1),
            "attention_dropout": hf.get("attention_dropout", 0.1),
            "activation_dropout": hf.get("activation_dropout", 0.1),
            "input_dropout": hf.get("feat_proj_dropout", 0.0),
            "layerdrop": hf.get("layerdrop", 0.1),
            "symbols": _symbols(source.root["vocab"]),
            **family.own_fields("huggingface", hf.get, {key: tensor.shape for key, tensor in tensors.items()}),
        }
    )
    rows = tuple(Row(*pair) for pair in family.own_rows("huggingface", config))
    prefix = str(hf["model_type"]).replace("-", "_") + "."
    prefix = prefix if any(key.startswith(prefix) for key in tensors) else ""
    return Reading(
        config=config,
        tensors=tensors,
        rows=(*(Row(prefix + row.source, row.target) for row in (*ENCODER_ROWS, *rows)), *HEAD_ROWS),
        drops=tuple(Drop(prefix + drop.source, drop.reason) for drop in DROPS),
        source_config={"config": hf, "preprocessor": processor},
    )


def _processor(root: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the feature extractor: a file of its own or, as transformers 5 writes it, a part of another."""
    own = root["preprocessor_config"] or (root["processor_config"] or {}).get("feature_extractor")
    return dict(own) if isinstance(own, Mapping) else {}


def _family(hf: Mapping[str, Any]) -> Family:
    if hf.get("model_type") == "hubert" and not hf.get("feat_proj_layer_norm", True):
        return families()["distilhubert"]  # the library has no class of its own for it
    for family in families().values():
        if hf.get("model_type") in family.names.get("huggingface", ()):
            return family
    known = sorted(name for family in families().values() for name in family.names.get("huggingface", ()))
    raise CheckpointError(f"its model_type is {shown(hf.get('model_type'))}; supported are {', '.join(known)}")


def _conv_layers(hf: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    columns = (
        hf.get("conv_dim", [512] * 7),
        hf.get("conv_kernel", [10, 3, 3, 3, 3, 2, 2]),
        hf.get("conv_stride", [5, 2, 2, 2, 2, 2, 2]),
    )
    if not all(isinstance(column, list) and len(column) == len(columns[0]) for column in columns):
        raise CheckpointError("conv_dim, conv_kernel and conv_stride in config.json are not lists of one length")
    return list(zip(*columns))


def _positions(hf: Mapping[str, Any]) -> dict[str, Any]:
    """The positional convolution; of data2vec, `num_conv_pos_embeddings` is the depth of its stack."""
    groups = hf.get("num_conv_pos_embedding_groups", 16)
    if "conv_pos_kernel_size" in hf:
        return {
            "pos_conv_kernel": hf["conv_pos_kernel_size"],
            "pos_conv_groups": groups,
            "pos_conv_norm": "layer",
            "pos_conv_depth": hf.get("num_conv_pos_embeddings", 5),
        }
    return {
        "pos_conv_kernel": hf.get("num_conv_pos_embeddings", 128),
        "pos_conv_groups": groups,
        "pos_conv_norm": "batch"
        if typed("conv_pos_batch_norm", hf.get("conv_pos_batch_norm", False), bool)
        else "weight",
    }


def _bias(hf: Mapping[str, Any]) -> dict[str, Any]:
    """The gated relative position bias, which exactly the models that count buckets have."""
    if "num_buckets" not in hf:
        return {}
    return {"relative_buckets": hf["num_buckets"], "relative_max_distance": hf.get("max_bucket_distance", 800)}


def _adapter_width(hf: Mapping[str, Any]) -> Any:
    """Inner width of MMS's adapters, which the library builds into pre-norm blocks only."""
    return (hf.get("adapter_attn_dim") or 0) if hf.get("do_stable_layer_norm", False) else 0


def _symbols(vocabulary: Mapping[str, Any] | None) -> list[str] | None:
    """Output symbols of a CTC head: the tokens of vocab.json in the order of their numbers."""
    if vocabulary is None or sorted(map(str, vocabulary.values())) != sorted(map(str, range(len(vocabulary)))):
        return None
    return sorted(vocabulary, key=lambda token: int(vocabulary[token]))


DIALECT = Dialect(name="huggingface", recognise=recognise, read=read)
