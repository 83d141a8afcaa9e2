"""Keys and fields that fairseq and what grew from it (Microsoft's and s3prl's files) have in common, both ways."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from zoo._registry import families
from zoo._tensors import Lazy, Made, zeros
from zoo.converters import _state_dict
from zoo.converters._dialect import Checkpoint
from zoo.converters._fields import SPECIALS, Block, parse_conv_layers, resolve
from zoo.converters._rows import Row, invert
from zoo.errors import CheckpointError, shown
from zoo.models._family import Config, Family, is_one_of, typed
from zoo.models._speech_encoder import SpeechEncoderConfig

Get = Callable[[str, Any], Any]  # name of a field, default -> its value

EXTRACTOR_NORMS = {"default": "group", "layer_norm": "layer"}
FIELDS = (  # fairseq's field, ours, the default of fairseq's own configuration class
    ("conv_bias", "conv_bias", False),
    ("encoder_layers", "num_layers", 12),
    ("encoder_embed_dim", "width", 768),
    ("encoder_ffn_embed_dim", "ffn_width", 3072),
    ("encoder_attention_heads", "num_heads", 12),
    ("layer_norm_first", "norm_first", False),
    ("conv_pos_groups", "pos_conv_groups", 16),
    ("dropout", "dropout", 0.1),
    ("attention_dropout", "attention_dropout", 0.1),
    ("activation_dropout", "activation_dropout", 0.0),
    ("dropout_input", "input_dropout", 0.0),
    ("encoder_layerdrop", "layerdrop", 0.0),
)
ADAPTER_FIELDS = ("layer_type", "adp_num", "adp_dim", "adp_act_fn", "adp_trf_idx")
# Fields of training alone: what a file had is kept, what it had not is left to the toolkit's default.
TRAINING = re.compile(
    "(no_)?mask_.*|require_same_masks|zero_mask|(latent|logit)_temp|same_quantizer|(num|cross_sample|codebook)_negatives|"
    "negatives_from_everywhere|skip_(no)?mask(ed)?|label_rate|feature_grad_mult|dropout_features|final_dropout|"
    "apply_mask|freeze_finetune_updates|checkpoint_activations|max_positions|average_top_k_layers|ema_.*|loss_.*|"
    "(layer|instance|batch|group)_norm_target.*|min_(target|pred)_var|(mmi|smoothness)_weight|(code|gradient)_penalty|"
    "smoothing.*|probabilistic_grad_penalty_slicing|no_softmax|(hard_)?gumbel|temp|target_downsample_rate"
)
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
        **{ours: get(theirs, default) for theirs, ours, default in FIELDS},
        **_positions(get),
        "adapter_width": _adapter_width(get),
    }


def said_fields(config: SpeechEncoderConfig, lacks: Collection[str] = ()) -> dict[str, Any]:
    """The inverse of `encoder_fields`, without the fields that the class to be written for lacks.

    Raises:
        CheckpointError: for a projection that fairseq's classes leave out.
    """
    if config.conv_layers[-1][0] == config.width:
        raise CheckpointError(
            f"fairseq and what grew from it have no projection from {config.width} convolution channels to a width of "
            f"{config.width}; such a model cannot be written for them"
        )
    modes = {ours: theirs for theirs, ours in EXTRACTOR_NORMS.items()}
    fields: dict[str, Any] = {
        "extractor_mode": modes[config.extractor_norm],
        "conv_feature_layers": conv_text(config.conv_layers),
        **{theirs: getattr(config, ours) for theirs, ours, _ in FIELDS},
        "conv_pos": config.pos_conv_kernel * config.pos_conv_depth,
        "pos_conv_depth": config.pos_conv_depth,
        "conv_pos_batch_norm": config.pos_conv_norm == "batch",
    }
    if config.adapter_width:
        fields |= dict(zip(ADAPTER_FIELDS, ("trf_adp", 1, config.adapter_width, "relu", "all")))
    return {name: value for name, value in fields.items() if name not in lacks}


def conv_text(blocks: Iterable[Block]) -> str:
    """A convolution stack as fairseq writes it, such as "[(512,10,5)] + [(512,3,2)] * 4"."""
    runs = [(block, len(list(run))) for block, run in itertools.groupby(blocks)]
    return " + ".join(f"[({c},{k},{s})]" + (f" * {n}" if n > 1 else "") for (c, k, s), n in runs)


def kept_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of training alone that a configuration settles; what is text where fairseq has numbers is left out."""
    return {
        name: value
        for name, value in config.items()
        if TRAINING.fullmatch(name)
        and resolve(value) is not None
        and (name.endswith("selection") or not isinstance(value, str))
    }


def _positions(get: Get) -> dict[str, Any]:
    """The positional convolution: `conv_pos` taps, shared out among the blocks of a stack."""
    taps, depth = get("conv_pos", 128), get("pos_conv_depth", 1)
    if is_one_of(depth, (1,)):
        batch = typed("conv_pos_batch_norm", get("conv_pos_batch_norm", False), bool)
        return {"pos_conv_kernel": taps, "pos_conv_norm": "batch" if batch else "weight"}
    if type(taps) is not int or type(depth) is not int or depth < 1:
        raise CheckpointError(
            f"conv_pos is {shown(taps)} and pos_conv_depth is {shown(depth)}; expected whole numbers above 0"
        )
    kernel = max(3, taps // depth)
    return {"pos_conv_kernel": kernel, "pos_conv_norm": "layer", "pos_conv_depth": depth}


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
    if not isinstance(config, SpeechEncoderConfig) or callable(family.rows.get(dialect)):
        return own
    replaced = {row.source for row in own}
    common = (*ROWS, *EXTRACTOR_ROWS[config.extractor_norm], *POSITIONAL_ROWS[config.pos_conv_norm])
    return (*(row for row in common if row.source not in replaced), *own)


def _reshaped(tensor: Lazy, shape: tuple[int, ...]) -> Lazy:
    """The same elements in other sizes."""
    return Made(tensor.dtype, shape, tensor.load)


def tensors(items: Iterable[tuple[Any, Any]]) -> dict[str, Lazy]:
    """The tensors of a state dict, without the axes that the zoo leaves out.

    Raises:
        CheckpointError: for something that is no tensor.
    """
    return {key: _narrow(key, tensor) for key, tensor in _state_dict.tensors(items).items()}


def _narrow(key: str, tensor: Lazy) -> Lazy:
    shape = tensor.shape
    if ADAPTER.fullmatch(key) and shape[:1] == (1,):
        return _reshaped(tensor, shape[1:])
    return _reshaped(tensor, shape[-3:]) if SCALE.fullmatch(key) and set(shape[:-3]) == {1} else tensor


def _whole(key: str, tensor: Lazy) -> Lazy:
    """The inverse of `_narrow`."""
    if ADAPTER.fullmatch(key):  # they stand in stacks, of which the zoo has one
        return _reshaped(tensor, (1, *tensor.shape))
    return _reshaped(tensor, (1, 1, *tensor.shape)) if SCALE.fullmatch(key) else tensor


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What fairseq says of one of its classes beside the model's own fields.

    Attributes:
        heads: those that it has.
        lacks: fields of the shared encoder that its configuration does not know.
        task, tuning: the task that trains it, and the one that fine-tunes it.
        ctc: class of the speech recogniser made from it.
    """

    heads: frozenset[str]
    lacks: frozenset[str] = frozenset({"conv_pos_batch_norm"})
    task: Mapping[str, Any] = field(default_factory=lambda: {"_name": "audio_pretraining"})
    tuning: Mapping[str, Any] = field(default_factory=lambda: {"_name": "audio_finetuning", "labels": "ltr"})
    ctc: str = "wav2vec_ctc"


HUBERT_TASK = "hubert_pretraining"
KINDS = {
    "wav2vec2": Kind(heads=frozenset({"final_proj", "project_q", "quantizer", "target_glu"})),
    "hubert": Kind(
        heads=frozenset({"final_proj", "label_embs_concat", "target_glu"}),
        lacks=frozenset({"pos_conv_depth", *ADAPTER_FIELDS}),
        task={"_name": HUBERT_TASK, "labels": ["km"]},
        tuning={"_name": HUBERT_TASK, "labels": ["ltr"], "label_rate": -1.0, "fine_tuning": True},
        ctc="hubert_ctc",
    ),
    "data2vec_audio": Kind(heads=frozenset({"final_proj"})),
    "data2vec_multi": Kind(
        heads=frozenset({"decoder", "shared_decoder", "recon_proj"}),
        lacks=frozenset({"conv_bias", "conv_pos_batch_norm", "encoder_layers", "encoder_ffn_embed_dim"})
        | {"layer_norm_first", "dropout_input"},
    ),
    "wav2vec_u": Kind(heads=frozenset(), task={"_name": "unpaired_audio_text", "text_data": ".", "labels": "phn"}),
}


@dataclass(frozen=True, kw_only=True)
class Written:
    """A model in fairseq's terms.

    Attributes:
        fields: of the model's configuration.
        tensors: its state dict.
        written, dropped, made_up: as in `Export`.
    """

    fields: dict[str, Any]
    tensors: dict[str, Lazy]
    written: dict[str, str]
    dropped: dict[str, str]
    made_up: dict[str, str]


def kind(fields: Mapping[str, Any]) -> Kind:
    """What fairseq says of the class that a configuration names."""
    return KINDS.get(fields["_name"], KINDS["wav2vec2"])


def model_fields(checkpoint: Checkpoint, before: Mapping[str, Any], lacks: Collection[str] = ()) -> dict[str, Any]:
    """The configuration of a pre-training model; sizes of its heads are those of the tensors.

    Args:
        checkpoint: the model.
        before: the configuration of the file that it came from, where that was fairseq's.
        lacks: fields of the shared encoder that the reader does not know, beside those that fairseq does not.
    """
    config, family = checkpoint.config, families()[checkpoint.config.family]
    own = family.says["fairseq"](config)
    shared = said_fields(config, {*kind(own).lacks, *lacks}) if isinstance(config, SpeechEncoderConfig) else {}
    if elsewhere := family.places.get("fairseq"):  # a configuration with sections of its own
        fields = {**{elsewhere.get(name, (name,))[0]: value for name, value in shared.items()}, **own}
        return _in_sections(fields, before)
    return {**shared, **own, **kept_fields(before), **_head_fields(checkpoint, own["_name"])}


def _in_sections(fields: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """Fields whose names lead into sections by dots, in place of those of the same name in an earlier configuration."""
    found = dict(before)
    for name, value in fields.items():
        section, _, rest = name.partition(".")
        inside = found.get(section)
        found[section] = _in_sections({rest: value}, inside if isinstance(inside, Mapping) else {}) if rest else value
    return found


def _head_fields(checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    """Fields that decide the shapes of pre-training heads."""
    config: Any = checkpoint.config
    if name not in ("wav2vec2", "hubert"):
        return {}
    projection = checkpoint.axes("heads.final_proj.weight", 2)
    fields: dict[str, Any] = {"target_glu": "heads.target_glu.0.weight" in checkpoint.tensors}
    if name == "hubert":
        labels = checkpoint.axes("heads.label_embs_concat", 2)
        final = labels[1] if labels else projection[0] if projection else config.width
        return fields | {"final_dim": final, "untie_final_proj": projection is not None and projection[0] != final}
    query, book = checkpoint.axes("heads.project_q.weight", 2), checkpoint.axes("heads.quantizer.vars", 3)
    final = (projection or query or (config.width,))[0]
    fields |= {"final_dim": final, "quantize_targets": book is not None}
    if book is None:
        return fields
    size = query[1] if query else final
    groups = max(1, size // book[2])
    stack = [key for key in checkpoint.tensors if re.fullmatch(r"heads\.quantizer\.weight_proj\.\d+\..*weight", key)]
    if stack and (first := checkpoint.axes(min(stack), 2)):  # of all its layers but the last one
        fields |= {"quantizer_depth": len(stack), "quantizer_factor": first[0] // first[1]}
    return fields | {"latent_dim": size, "latent_groups": groups, "latent_vars": book[1] // groups}


def write_model(
    checkpoint: Checkpoint, fields: dict[str, Any], rows: Iterable[Row], heads: Collection[str], what: str
) -> Written:
    """The tensors of a model under fairseq's keys.

    Args:
        checkpoint: the model.
        fields: of its configuration.
        rows: the key table.
        heads: those that are to be written.
        what: whose heads these are, for the reasons.
    """
    tensors: dict[str, Lazy] = {}
    written: dict[str, str] = {}
    keys = invert(rows, checkpoint.tensors)
    for name, tensor in checkpoint.tensors.items():
        if name in keys and (not name.startswith("heads.") or name.split(".")[1] in heads):
            key = written[name] = keys[name]
            tensors[key] = _whole(key, tensor)
    dropped = {name: f"{what} has no place for it" for name in checkpoint.tensors if name not in written}
    config: Any = checkpoint.config
    for template, _ in families()[config.family].drops.get("fairseq", ()):
        first = template.replace("{later}", "0")
        for key in [key for key in tensors if first != template and key.endswith(first)]:
            for block in range(1, config.num_layers):  # which all have a copy
                tensors[key.removesuffix(first) + template.format(later=block)] = tensors[key]
    return Written(fields=fields, tensors=_state_dict.join(tensors), written=written, dropped=dropped, made_up={})


def make_up(written: Written, checkpoint: Checkpoint) -> None:
    """Add what the strict loaders of pre-training models insist on: zeros, which no encoder computes with."""
    config: Any = checkpoint.config
    name, final, width = written.fields["_name"], written.fields.get("final_dim", 0), config.width
    wanted: dict[str, tuple[int, ...]] = {}
    if name == "wav2vec2":
        inputs = written.fields["latent_dim"] if written.fields["quantize_targets"] else config.conv_layers[-1][0]
        wanted = {"project_q.weight": (final, inputs), "project_q.bias": (final,)}
    if name in ("wav2vec2", "hubert"):
        wanted |= {"final_proj.weight": (final, width), "final_proj.bias": (final,)}
    elif name == "data2vec_audio":
        wanted = {"final_proj.weight": (width, width), "final_proj.bias": (width,)}
    for key, shape in wanted.items():
        if key not in written.tensors:
            written.tensors[key] = zeros(*shape)
            written.made_up[key] = "zeros, a head of pre-training that the loader insists on"


def dictionaries(checkpoint: Checkpoint, made_up: dict[str, str]) -> list[list[str] | None]:
    """The symbols of HuBERT's labels, as many as there are embeddings; [None], with which fairseq builds none."""
    shape = checkpoint.axes("heads.label_embs_concat", 2)
    if shape is None:
        return [None]
    known = checkpoint.provenance.get("dictionaries")
    known = [symbols for symbols in known if isinstance(symbols, list)] if isinstance(known, list) else []
    if sum(len(symbols) for symbols in known) == shape[0]:
        return list(known)
    made_up["dictionaries"] = "numbers, as nothing says what the label embeddings stand for"
    return [[*SPECIALS, *(str(n) for n in range(shape[0]))][: shape[0]]]
