"""Keys and fields that fairseq and what grew from it (Microsoft's and s3prl's files) have in common."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.converters._fields import parse_conv_layers
from zoo.converters._rows import Row
from zoo.converters._source import Lazy
from zoo.converters._unpickle import LazyTensor
from zoo.errors import CheckpointError, shown
from zoo.models._family import Config, Family, is_one_of, typed
from zoo.models._speech_encoder import SpeechEncoderConfig

Get = Callable[[str, Any], Any]  # name of a field, default -> its value

EXTRACTOR_NORMS = {"default": "group", "layer_norm": "layer"}
ROWS = (
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
    Row("encoder.layers.{n}.adapter_layer.W_a", "encoder.layers.{n}.adapter_layer.linear_1.weight"),
    Row("encoder.layers.{n}.adapter_layer.b_a", "encoder.layers.{n}.adapter_layer.linear_1.bias"),
    Row("encoder.layers.{n}.adapter_layer.W_b", "encoder.layers.{n}.adapter_layer.linear_2.weight"),
    Row("encoder.layers.{n}.adapter_layer.b_b", "encoder.layers.{n}.adapter_layer.linear_2.bias"),
    Row("encoder.layers.{n}.adapter_layer.ln_W", "encoder.layers.{n}.adapter_layer.norm.weight"),
    Row("encoder.layers.{n}.adapter_layer.ln_b", "encoder.layers.{n}.adapter_layer.norm.bias"),
    Row("final_proj.{rest}", "heads.final_proj.{rest}"),
    Row("project_q.{wb}", "heads.project_q.{wb}"),
    Row("quantizer.{rest}", "heads.quantizer.{rest}"),
    Row("target_glu.{rest}", "heads.target_glu.{rest}"),
)
EXTRACTOR_ROWS = {
    "group": (Row("feature_extractor.conv_layers.0.2.{wb}", "feature_extractor.conv_layers.0.layer_norm.{wb}"),),
    "layer": (Row("feature_extractor.conv_layers.{m}.2.1.{wb}", "feature_extractor.conv_layers.{m}.layer_norm.{wb}"),),
}
POSITIONAL_ROWS = {
    "weight": (Row("encoder.pos_conv.0.{wn}", "encoder.pos_conv_embed.conv.{wn}"),),
    "batch": (
        Row("encoder.pos_conv.0.{bn}", "encoder.pos_conv_embed.batch_norm.{bn}"),
        Row("encoder.pos_conv.1.{wb}", "encoder.pos_conv_embed.conv.{wb}"),
    ),
    "layer": (Row("encoder.pos_conv.{m}.0.{wb}", "encoder.pos_conv_embed.layers.{m}.conv.{wb}"),),
}

ADAPTER = re.compile(r".*\.adapter_layer\.(W_a|W_b|b_a|b_b|ln_W|ln_b)")  # stacked over adapters
SCALE = re.compile(r".*\.alibi_scale")  # (1, 1, H, 1, 1), in older files without the first axis
FUSED = re.compile(r"(?!_ema\.).*\.attn\.qkv\.(weight|bias)")  # rows of query, key and value, in that order

# Values under which the reference's forward pass is the one built here; an absent field has the first.
REQUIRED: Mapping[str, tuple[Any, ...]] = {
    "activation_fn": ("gelu",),
    "layer_type": ("transformer", "trf_adp"),
    "quantize_input": (False,),
    "crop_seq_to_multiple": (1,),
}


def encoder_fields(get: Get, required: Mapping[str, tuple[Any, ...]] | None = None) -> dict[str, Any]:
    """Fields of `SpeechEncoderConfig` from fairseq's; the defaults are those of fairseq's own configuration class.

    Args:
        get: gives a field's value from its name and default.
        required: what a family requires in place of `REQUIRED`.

    Raises:
        CheckpointError: for a value under which the reference computes something that the zoo does not have.
    """
    for name, (default, *others) in REQUIRED.items():
        if not is_one_of(value := get(name, default), (required or {}).get(name, (default, *others))):
            raise CheckpointError(f"{name} is {shown(value)}, which this version of zoo does not have")
    mode = get("extractor_mode", "default")
    if not isinstance(mode, str) or mode not in EXTRACTOR_NORMS:
        raise CheckpointError(f"extractor_mode is {shown(mode)}; expected one of {', '.join(EXTRACTOR_NORMS)}")
    stack = get("conv_feature_layers", "[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2")
    return {
        "conv_layers": parse_conv_layers(stack),
        "extractor_norm": EXTRACTOR_NORMS[mode],
        "conv_bias": get("conv_bias", False),
        "num_layers": get("encoder_layers", 12),
        "width": get("encoder_embed_dim", 768),
        "ffn_width": get("encoder_ffn_embed_dim", 3072),
        "num_heads": get("encoder_attention_heads", 12),
        "norm_first": get("layer_norm_first", False),
        **_positions(get),
        "adapter_width": _adapter_width(get),
        "dropout": get("dropout", 0.1),
        "attention_dropout": get("attention_dropout", 0.1),
        "activation_dropout": get("activation_dropout", 0.0),
        "input_dropout": get("dropout_input", 0.0),
        "layerdrop": get("encoder_layerdrop", 0.0),
    }


def _positions(get: Get) -> dict[str, Any]:
    """The positional convolution: `conv_pos` taps, shared out among the blocks of a stack."""
    taps, depth = get("conv_pos", 128), get("pos_conv_depth", 1)
    groups = get("conv_pos_groups", 16)
    if is_one_of(depth, (1,)):
        norm = "batch" if typed("conv_pos_batch_norm", get("conv_pos_batch_norm", False), bool) else "weight"
        return {"pos_conv_kernel": taps, "pos_conv_groups": groups, "pos_conv_norm": norm}
    if type(taps) is not int or type(depth) is not int or depth < 1:
        raise CheckpointError(
            f"conv_pos is {shown(taps)} and pos_conv_depth is {shown(depth)}; expected whole numbers above 0"
        )
    kernel = max(3, taps // depth)
    return {"pos_conv_kernel": kernel, "pos_conv_groups": groups, "pos_conv_norm": "layer", "pos_conv_depth": depth}


def _adapter_width(get: Get) -> Any:
    """Inner width of the adapters after the blocks; 0 without any."""
    if get("layer_type", "transformer") != "trf_adp":
        return 0
    for name, default, allowed in (("adp_num", -1, 1), ("adp_act_fn", "relu", "relu"), ("adp_trf_idx", "all", "all")):
        if not is_one_of(value := get(name, default), (allowed,)):
            raise CheckpointError(
                f"{name} is {shown(value)}, but supported is one adapter after every block, with ReLU: "
                "adp_num 1, adp_act_fn 'relu', adp_trf_idx 'all'"
            )
    return get("adp_dim", 64)


def rows(config: Config, family: Family, dialect: str) -> tuple[Row, ...]:
    """The key table of a configuration: the family's own rows in that dialect, and those of the shared encoder."""
    own = tuple(Row(*pair) for pair in family.own_rows(dialect, config))
    if not isinstance(config, SpeechEncoderConfig):
        return own
    replaced = {row.source for row in own}
    common = (*ROWS, *EXTRACTOR_ROWS[config.extractor_norm], *POSITIONAL_ROWS[config.pos_conv_norm])
    return (*(row for row in common if row.source not in replaced), *own)


@dataclass(frozen=True)
class Part:
    """One of the equal parts that lie one after another in a tensor, not yet read.

    Attributes:
        whole: the tensor.
        shape: sizes of each part.
        index: which one.
    """

    whole: LazyTensor
    shape: tuple[int, ...]
    index: int = 0

    @property
    def dtype(self) -> torch.dtype:
        """As stored."""
        return self.whole.dtype

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def load(self) -> Tensor:
        """Read it; a copy, as a view would keep the whole in memory."""
        start = self.index * self.numel
        return self.whole.load().flatten()[start : start + self.numel].reshape(self.shape).clone()


def tensors(items: Iterable[tuple[str, Any]]) -> dict[str, Lazy]:
    """The tensors of a state dict; one dictionary inside it, such as data2vec's teacher copy, is taken apart.

    Raises:
        CheckpointError: for something that is no tensor.
    """
    found: dict[str, Lazy] = {}
    for key, value in items:
        inside = value.items() if isinstance(value, Mapping) else ()
        for name, tensor in [(f"{key}.{k}", v) for k, v in inside] or [(key, value)]:
            if not isinstance(name, str) or not isinstance(tensor, LazyTensor):
                raise CheckpointError(f"the model's state dict holds something else than a tensor under {shown(name)}")
            found |= _parts(name, tensor)
    return found


def _parts(name: str, tensor: LazyTensor) -> dict[str, Lazy]:
    """A tensor of a state dict by its name, or the parts of it that have a place of their own."""
    shape = tensor.shape
    if ADAPTER.fullmatch(name) and shape[:1] == (1,):
        return {name: Part(tensor, shape[1:])}
    if SCALE.fullmatch(name) and set(shape[:-3]) == {1}:
        return {name: Part(tensor, shape[-3:])}
    if FUSED.fullmatch(name) and shape and shape[0] % 3 == 0:
        return {f"{name}[{i}]": Part(tensor, (shape[0] // 3, *shape[1:]), i) for i in range(3)}
    return {name: tensor}
