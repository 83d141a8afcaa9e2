"""Hugging Face folders: base, pre-training, CTC and other head classes, with and without the family's prefix.

The zoo's parameter names are those of the base models, so most rows say the same on both sides. A family's `names` are
its `model_type` and what the names of its classes begin with. Facts from transformers 5.23 (Apache-2.0):
`configuration_*.py`, `modeling_*.py`, `feature_extraction_wav2vec2.py`, `tokenization_wav2vec2.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from zoo._registry import families
from zoo.converters._dialect import TOOLKITS_OWN, Checkpoint, Dialect, Export, Keys, Reading
from zoo.converters._rows import Drop, Row, invert
from zoo.converters._source import Folder, Source
from zoo.errors import CheckpointError, shown
from zoo.models._family import Config, Family, is_one_of

NORMALIZE_EPS = 1e-7  # of the feature extractor, which divides by sqrt(variance + 1e-7)
MASK = "masked_spec_embed"
ALWAYS_MASKED = ("unispeech-sat",)  # its class has the mask embedding whether or not masking is on

ENCODER_ROWS = (
    Row(MASK, MASK),
    Row("feature_extractor.conv_layers.{rest}", "feature_extractor.conv_layers.{rest}"),
    Row("feature_projection.{rest}", "feature_projection.{rest}"),
    Row("encoder.layer_norm.{wb}", "encoder.layer_norm.{wb}"),
    Row("encoder.layers.{rest}", "encoder.layers.{rest}"),
    # Of the two spellings of weight norm the first is written: every version of the library loads it (some of the
    # fourth warn without cause), while old ones do not know the other.
    Row("encoder.pos_conv_embed.conv.{wn}", "encoder.pos_conv_embed.conv.{wn}"),
    Row("encoder.pos_conv_embed.conv.parametrizations.weight.original0", "encoder.pos_conv_embed.conv.weight_g"),
    Row("encoder.pos_conv_embed.conv.parametrizations.weight.original1", "encoder.pos_conv_embed.conv.weight_v"),
    Row("encoder.pos_conv_embed.batch_norm.{bn}", "encoder.pos_conv_embed.batch_norm.{bn}"),
    Row("encoder.pos_conv_embed.layers.{m}.conv.{wb}", "encoder.pos_conv_embed.layers.{m}.conv.{wb}"),
)
DROPS = (Drop("mask_time_emb_vector", "an early port's second copy of the mask embedding"),)


@dataclass(frozen=True)
class Head:
    """A tensor of a head.

    Attributes:
        row: where it goes; heads have fairseq's names where it has them.
        shape: its sizes by name, those of config.json where they stand there.
    """

    row: Row
    shape: tuple[str | int, ...]


def linear(source: str, target: str, outputs: str, inputs: str) -> tuple[Head, Head]:
    """Weight and bias of a linear map."""
    rows = (Row(f"{source}.{name}", f"heads.{target}.{name}") for name in ("weight", "bias"))
    return Head(next(rows), (outputs, inputs)), Head(next(rows), (outputs,))


def quantiser(inputs: str) -> tuple[Head, ...]:
    """The quantiser of a pre-training class, and the map of what it gives."""
    return (
        Head(Row("quantizer.codevectors", "heads.quantizer.vars"), (1, "codevectors", "codevector_part")),
        *linear("quantizer.weight_proj", "quantizer.weight_proj", "codevectors", inputs),
        *linear("project_q", "project_q", "proj_codevector_dim", "codevector_dim"),
    )


@dataclass(frozen=True)
class HeadClass:
    """A class of the library.

    Attributes:
        suffix: what its name ends with.
        types: the model types that it exists for; empty: all of them.
        heads: what it has beside the encoder.
    """

    suffix: str
    types: tuple[str, ...]
    heads: tuple[Head, ...]

    def rows(self) -> tuple[Row, ...]:
        """Its part of the key table."""
        return tuple(head.row for head in self.heads)

    def sizes(self, checkpoint: Checkpoint, known: Mapping[str | int, int]) -> dict[str | int, int] | None:
        """Size of each named axis, if the checkpoint has all of its heads and their shapes agree."""
        sizes = dict(known)
        for head in self.heads:
            shape = checkpoint.shape(head.row.target)
            if shape is None or len(shape) != len(head.shape) or 0 in shape:
                return None
            if any(sizes.setdefault(name, size) != size for name, size in zip(head.shape, shape)):
                return None
        if "codevectors" in sizes:
            groups, rest = divmod(sizes["codevector_dim"], sizes["codevector_part"])
            if rest or groups == 0 or sizes["codevectors"] % groups:
                return None
            sizes |= {"num_codevector_groups": groups, "num_codevectors_per_group": sizes["codevectors"] // groups}
        return sizes


def weighted(suffix: str, types: tuple[str, ...], heads: tuple[Head, ...]) -> tuple[HeadClass, HeadClass]:
    """A class with and without weights of the encoder's hidden states."""
    return HeadClass(suffix, types, (*heads, LAYER_WEIGHTS)), HeadClass(suffix, types, heads)


def x_vector(depth: int) -> tuple[Head, ...]:
    """Heads of a speaker embedding with `depth` time-delay layers."""
    layers = [(f"tdnn.{i}.kernel", f"tdnn{i}", f"tdnn{i} inputs") for i in range(depth)]
    return (
        *linear("projector", "projector", "tdnn0", "hidden_size"),
        *(head for name, outputs, inputs in layers for head in linear(name, name, outputs, inputs)),
        # Beside the encoder's front end of that name, a linear map of mean and deviation over time.
        *linear("feature_extractor", "feature_extractor", "xvector_output_dim", "pooled"),
        *linear("classifier", "classifier", "xvector_output_dim", "xvector_output_dim"),
        Head(Row("objective.weight", "heads.objective.weight"), ("xvector_output_dim", "labels")),
    )


LAYER_WEIGHTS = Head(Row("layer_weights", "heads.layer_weights"), ("states",))
CLASSIFIERS = ("wav2vec2", "wav2vec2-conformer", "data2vec-audio", "wavlm", "unispeech-sat")
MAX_TDNN = 8
# In order of preference, should a checkpoint have the heads of several.
CLASSES = (
    HeadClass(
        "ForPreTraining",
        ("unispeech",),
        (
            *quantiser("channels"),
            *linear("project_hid", "final_proj", "hidden_size", "proj_codevector_dim"),
            *linear("ctc_proj", "ctc_proj", "num_ctc_classes", "hidden_size"),
        ),
    ),
    HeadClass("ForCTC", (), linear("lm_head", "ctc_proj", "vocab_size", "hidden_size")),
    HeadClass(
        "ForPreTraining",
        ("unispeech-sat",),
        (
            *quantiser("hidden_size"),
            *linear("project_hid", "final_proj", "proj_codevector_dim", "hidden_size"),
            *linear("speaker_proj", "spk_proj", "codevector_dim", "hidden_size"),
            Head(Row("label_embeddings_concat", "heads.label_embs_concat"), ("num_clusters", "codevector_dim")),
            Head(Row("layer_norm_for_extract.weight", "heads.layer_norm_for_extract.weight"), ("hidden_size",)),
            Head(Row("layer_norm_for_extract.bias", "heads.layer_norm_for_extract.bias"), ("hidden_size",)),
        ),
    ),
    HeadClass(
        "ForPreTraining",
        ("wav2vec2", "wav2vec2-conformer"),
        (*quantiser("channels"), *linear("project_hid", "final_proj", "proj_codevector_dim", "hidden_size")),
    ),
    *(item for depth in range(MAX_TDNN, 0, -1) for item in weighted("ForXVector", CLASSIFIERS, x_vector(depth))),
    *weighted(
        "ForSequenceClassification",
        (),
        (
            *linear("projector", "projector", "classifier_proj_size", "hidden_size"),
            *linear("classifier", "classifier", "labels", "classifier_proj_size"),
        ),
    ),
    *weighted("ForAudioFrameClassification", CLASSIFIERS, linear("classifier", "classifier", "labels", "hidden_size")),
)
BASE_CLASS = HeadClass("Model", (), ())
HEAD_ROWS = (
    *dict.fromkeys(row for item in CLASSES for row in item.rows()),
    Row("final_proj.{wb}", "heads.final_proj.{wb}"),  # of no class of the library: ContentVec's folders have it
)
SIZES = (  # fields of config.json that say a size of a head
    "vocab_size",
    "num_ctc_classes",
    "num_clusters",
    "codevector_dim",
    "proj_codevector_dim",
    "num_codevector_groups",
    "num_codevectors_per_group",
    "classifier_proj_size",
    "xvector_output_dim",
)

# Values under which the reference's forward pass is the one built here; an absent field has the first.
REQUIRED: Mapping[str, tuple[Any, ...]] = {
    "hidden_act": ("gelu",),
    "feat_extract_activation": ("gelu",),
    "layer_norm_eps": (1e-5,),
    "add_adapter": (False,),
    "feat_proj_layer_norm": (True,),
}
# Field of config.json, field of the configuration, the library's default. A family has others, or fixes them.
FIELDS: tuple[tuple[str, str, Any], ...] = (
    ("feat_extract_norm", "extractor_norm", "group"),
    ("conv_bias", "conv_bias", False),
    ("num_hidden_layers", "num_layers", 12),
    ("hidden_size", "width", 768),
    ("intermediate_size", "ffn_width", 3072),
    ("num_attention_heads", "num_heads", 12),
    ("do_stable_layer_norm", "norm_first", False),
    ("num_conv_pos_embeddings", "pos_conv_kernel", 128),
    ("num_conv_pos_embedding_groups", "pos_conv_groups", 16),
    ("hidden_dropout", "dropout", 0.1),
    ("attention_dropout", "attention_dropout", 0.1),
    ("activation_dropout", "activation_dropout", 0.1),
    ("feat_proj_dropout", "input_dropout", 0.0),
    ("layerdrop", "layerdrop", 0.1),
)
CONV_FIELDS = (
    ("conv_dim", [512] * 7),
    ("conv_kernel", [10, 3, 3, 3, 3, 2, 2]),
    ("conv_stride", [5, 2, 2, 2, 2, 2, 2]),
)
PROCESSOR_FIELDS = (
    ("do_normalize", "normalize"),
    ("return_attention_mask", "attention_mask"),
    ("sampling_rate", "sample_rate"),
)


def recognise(source: Source) -> bool:
    """Whether it is a folder."""
    return isinstance(source, Folder)


def keys(config: Config) -> Iterator[Keys]:
    """How the library names the tensors of a model: below a head class, or alone."""
    family = families()[config.family]
    if model_type := _model_type(family):
        yield from (_keys(config, prefix) for prefix in (_prefix(model_type), ""))


def _keys(config: Config, prefix: str) -> Keys:
    return Keys(
        rows=(*(Row(prefix + row.source, row.target) for row in _encoder_rows(config)), *HEAD_ROWS),
        drops=tuple(Drop(prefix + drop.source, drop.reason) for drop in DROPS),
    )


def read(source: Source) -> Reading:
    """Read a Hugging Face folder.

    Raises:
        CheckpointError: when its model is not supported.
    """
    hf: Mapping[str, Any] = source.root["config"]
    family = _family(hf)
    for name, value in _unmet(family, hf).items():
        raise CheckpointError(f"{name} is {shown(value)} in config.json, which this version of zoo does not have")
    tensors = source.root["tensors"]
    fields = {ours: hf.get(theirs, default) for theirs, ours, default in FIELDS}
    fields |= {"conv_layers": _conv_layers(hf), "adapter_width": _adapter_width(hf)}
    fields |= family.own_fields("huggingface", hf.get, {key: tensor.shape for key, tensor in tensors.items()})
    fields |= family.fixed.get("huggingface", {})
    # Without a processor file: what every released model's has.
    layers = fields["extractor_norm"] == "layer"
    processor = {"do_normalize": layers, "return_attention_mask": layers, "sampling_rate": 16000}
    processor |= _processor(source.root)
    config = family.config.from_dict(
        {
            "family": family.name,
            **fields,
            **{ours: processor[theirs] for theirs, ours in PROCESSOR_FIELDS},
            "normalize_eps": NORMALIZE_EPS,
            "padding_rule": "length",
            "symbols": _symbols(source.root.get("vocab")),
        }
    )
    prefix = _prefix(hf["model_type"])
    names = _keys(config, prefix if any(key.startswith(prefix) for key in tensors) else "")
    return Reading(
        config=config,
        tensors=tensors,
        rows=names.rows,
        drops=names.drops,
        source_config={"config": hf, "preprocessor": processor, "tokenizer": source.root.get("tokenizer_config")},
    )


def _encoder_rows(config: Config) -> tuple[Row, ...]:
    return (*ENCODER_ROWS, *(Row(*pair) for pair in families()[config.family].own_rows("huggingface", config)))


def _prefix(model_type: str) -> str:
    """What stands before the encoder's keys in a class with heads."""
    return model_type.replace("-", "_") + "."


def _processor(root: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the feature extractor: a file of its own or, as transformers 5 writes it, a part of another."""
    own = root.get("preprocessor_config") or (root.get("processor_config") or {}).get("feature_extractor")
    return dict(own) if isinstance(own, Mapping) else {}


def _family(hf: Mapping[str, Any]) -> Family:
    """The family of a model type; of several, the one that computes what config.json says."""
    found = [family for family in families().values() if _model_type(family) == hf.get("model_type")]
    if found and hf.get("model_type"):
        return min(found, key=lambda family: len(_unmet(family, hf)))
    known = sorted({name for family in families().values() if (name := _model_type(family))})
    raise CheckpointError(f"its model_type is {shown(hf.get('model_type'))}; supported are {', '.join(known)}")


def _model_type(family: Family) -> str:
    """What config.json calls a family; empty: nothing."""
    return family.names.get("huggingface", ("",))[0]


def _unmet(family: Family, hf: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of config.json under which a family computes something else."""
    required = {**REQUIRED, **family.required.get("huggingface", {})}
    said = {name: hf.get(name, REQUIRED.get(name, allowed)[0]) for name, allowed in required.items()}
    return {name: value for name, value in said.items() if not is_one_of(value, required[name])}


def _conv_layers(hf: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    columns = [hf.get(name, default) for name, default in CONV_FIELDS]
    if not all(isinstance(column, list) and len(column) == len(columns[0]) for column in columns):
        raise CheckpointError("conv_dim, conv_kernel and conv_stride in config.json are not lists of one length")
    return list(zip(*columns))


def _adapter_width(hf: Mapping[str, Any]) -> Any:
    """Inner width of MMS's adapters, which the library builds into pre-norm blocks only."""
    return (hf.get("adapter_attn_dim") or 0) if hf.get("do_stable_layer_norm", False) else 0


def _symbols(vocabulary: Mapping[str, Any] | None) -> list[str] | None:
    """Output symbols of a CTC head: the tokens of vocab.json in the order of their numbers."""
    if vocabulary is None or sorted(map(str, vocabulary.values())) != sorted(map(str, range(len(vocabulary)))):
        return None
    return sorted(vocabulary, key=lambda token: int(vocabulary[token]))


def holds(config: Config) -> bool:
    """Whether the library has the family."""
    return bool(_model_type(families()[config.family]))


def write(checkpoint: Checkpoint) -> Export:
    """A folder for the class that has the checkpoint's heads, if there is one.

    What the folder that a checkpoint came from said beside its architecture is said again.
    """
    config: Any = checkpoint.config
    family = families()[config.family]
    model_type, stem = family.names["huggingface"]
    source = checkpoint.source_config("huggingface")
    before = _mapping(source.get("config"))
    chosen, sizes = _class(checkpoint, before)
    hf = {
        **{name: value for name, value in before.items() if name != "torch_dtype"},
        "model_type": model_type,
        "architectures": [stem + chosen.suffix],
        "dtype": str(checkpoint.tensors["feature_projection.projection.weight"].dtype).removeprefix("torch."),
        **_fields(config, family),
        **_head_fields(chosen, sizes, before),
    }
    hf.setdefault("pad_token_id", 0)  # the blank of CTC: the first symbol, where no folder said otherwise
    dropped = _without_mask(checkpoint, hf)
    prefix = _prefix(model_type) if chosen.heads else ""
    written = {name: prefix + key for name, key in invert(_encoder_rows(config), checkpoint.tensors).items()}
    written |= invert(chosen.rows(), checkpoint.tensors)
    dropped |= {name: f"{stem}{chosen.suffix} has no such head" for name in checkpoint.tensors if name not in written}
    written = {name: key for name, key in written.items() if name not in dropped}
    processor = {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "feature_size": 1,
        "padding_side": "right",
        "padding_value": 0.0,
        **_mapping(source.get("preprocessor")),
        **{theirs: getattr(config, ours) for theirs, ours in PROCESSOR_FIELDS},
    }
    if not source:  # what every released model's says
        processor["return_attention_mask"] = config.extractor_norm == "layer"
    root: dict[str, Any] = {
        "config": hf,
        "preprocessor_config": processor,
        "tensors": {key: checkpoint.tensors[name] for name, key in written.items()},
    }
    if config.symbols is not None:
        root["vocab"] = {symbol: number for number, symbol in enumerate(config.symbols)}
        root["tokenizer_config"] = _mapping(source.get("tokenizer")) or _tokenizer(config.symbols, hf["pad_token_id"])
    return Export(root=root, written=written, dropped=dropped)


def _mapping(value: Any) -> Mapping[str, Any]:
    """What a file says under a name, if that is an object."""
    return value if isinstance(value, Mapping) else {}


def _class(checkpoint: Checkpoint, before: Mapping[str, Any]) -> tuple[HeadClass, Mapping[str | int, int]]:
    """The class that the folder named, or else the first, of those whose heads are all there; sizes of its heads."""
    config: Any = checkpoint.config
    model_type, stem = families()[config.family].names["huggingface"]
    known: dict[str | int, int] = {
        1: 1,
        "hidden_size": config.width,
        "channels": config.conv_layers[-1][0],
        "states": config.num_layers + 1,
    }
    fitting = [
        (item, sizes)
        for item in CLASSES
        if model_type in (item.types or (model_type,)) and (sizes := item.sizes(checkpoint, known)) is not None
    ]
    named = [(item, sizes) for item, sizes in fitting if [stem + item.suffix] == before.get("architectures")]
    return next(iter([*named, *fitting]), (BASE_CLASS, known))


def _fields(config: Any, family: Family) -> dict[str, Any]:
    """What config.json says of the encoder."""
    fixed = family.fixed.get("huggingface", {})
    says = family.says.get("huggingface", lambda config: {})
    return {
        **{theirs: getattr(config, ours) for theirs, ours, _ in FIELDS if ours not in fixed},
        **{theirs: list(column) for (theirs, _), column in zip(CONV_FIELDS, zip(*config.conv_layers))},
        **({"adapter_attn_dim": config.adapter_width} if config.adapter_width else {}),
        **{name: allowed[0] for name, allowed in family.required.get("huggingface", {}).items()},
        **says(config),
    }


def _head_fields(chosen: HeadClass, sizes: Mapping[str | int, int], before: Mapping[str, Any]) -> dict[str, Any]:
    """What config.json says of the heads of a class."""
    fields: dict[str, Any] = {name: sizes[name] for name in SIZES if name in sizes}
    if "labels" in sizes:
        fields["use_weighted_layer_sum"] = LAYER_WEIGHTS in chosen.heads
        if len(_mapping(before.get("id2label"))) != sizes["labels"]:
            names = [f"LABEL_{number}" for number in range(sizes["labels"])]
            fields |= {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    if "tdnn0" in sizes:
        outputs = [sizes[f"tdnn{i}"] for i in range(MAX_TDNN) if f"tdnn{i}" in sizes]
        inputs = [sizes[f"tdnn{i} inputs"] for i in range(len(outputs))]
        fields["tdnn_dim"] = outputs
        fields["tdnn_kernel"] = [size // channels for size, channels in zip(inputs, [outputs[0], *outputs])]
    return fields


def _without_mask(checkpoint: Checkpoint, hf: dict[str, Any]) -> dict[str, str]:
    """Why the mask embedding is left out, if it is; masking, without which the library has none, is then off."""
    if hf["model_type"] in ALWAYS_MASKED:
        return {}
    made_up = checkpoint.provenance.get("made_up")
    if isinstance(made_up, list) and MASK in made_up and not checkpoint.tensors[MASK].load().any():
        hf["mask_time_prob"] = hf["mask_feature_prob"] = 0.0
        return {MASK: "it was made up, and config.json turns masking off"}
    probabilities = hf.setdefault("mask_time_prob", 0.05), hf.get("mask_feature_prob")
    if any(isinstance(p, (int, float)) and p > 0 for p in probabilities):
        return {}
    return {MASK: "config.json turns masking off"}


def _tokenizer(symbols: tuple[str, ...], blank: Any) -> dict[str, Any]:
    """Settings of the tokenizer; its pad token is the blank of CTC."""
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "word_delimiter_token": "|"}
    return {
        "tokenizer_class": "Wav2Vec2CTCTokenizer",
        "pad_token": symbols[blank if blank in range(len(symbols)) else 0],
        **{name: token if token in symbols else None for name, token in special.items()},
    }


DIALECT = Dialect(
    name="huggingface",
    recognise=recognise,
    read=read,
    keys=keys,
    target="hf",
    holds=holds,
    write=write,
    unsaid=TOOLKITS_OWN,
)
