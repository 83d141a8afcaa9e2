"""fairseq's models as s3prl converts them: `{"task_cfg": {...}, "model_cfg": {...}, "model_weight": state dict}`.

HuBERT's have `dictionaries_symbols` beside them. Sections and keys are fairseq's, and s3prl loads them strictly, with
the heads of pre-training; of data2vec it takes the encoder alone, and deletes `_ema`, which has to be there. Facts from
s3prl 0.4.18 `upstream/{wav2vec2,hubert,data2vec}` (Apache-2.0).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zoo._registry import families
from zoo.converters import _fairseq_layout as layout
from zoo.converters import fairseq
from zoo.converters._dialect import Checkpoint, Dialect, Export, Reading
from zoo.converters._source import Source, Unwritten
from zoo.errors import CheckpointError
from zoo.models._family import Config

# Classes that s3prl has copies of, which know neither of these fields; a Conformer says its layer_type itself.
CLASSES = ("wav2vec2", "hubert", "data2vec_audio")
LACKS = frozenset({"conv_pos_batch_norm", *layout.ADAPTER_FIELDS})


def recognise(source: Source) -> bool:
    """Whether the top level has a state dict under s3prl's name for it."""
    root = source.root
    return isinstance(root, Mapping) and all(isinstance(root.get(k), Mapping) for k in ("model_cfg", "model_weight"))


def read(source: Source) -> Reading:
    """Read a file that s3prl converted.

    Raises:
        CheckpointError: when its configuration is incomplete, contradictory, or of a model that is not supported.
    """
    root = source.root
    if not isinstance(root.get("task_cfg"), Mapping):
        raise CheckpointError(
            "it has no task_cfg, which says whether waveforms are normalised; give the file that s3prl converted"
        )
    sections = {"model": root["model_cfg"], "task": root["task_cfg"]}
    state = {"dictionaries": root.get("dictionaries_symbols")}
    return fairseq.read(Unwritten({"cfg": sections, "model": root["model_weight"], "task_state": state}))


def write(checkpoint: Checkpoint) -> Export:
    """The pre-trained model, with zeros for the heads that s3prl insists on."""
    config: Any = checkpoint.config
    _, inner = fairseq.sections_before(checkpoint)
    fields = layout.model_fields(checkpoint, inner["model"], LACKS)
    rows, name = layout.rows(config, families()[config.family], "fairseq"), fields["_name"]
    heads = layout.kind(fields).heads if name != "data2vec_audio" else frozenset[str]()
    written = layout.write_model(checkpoint, fields, rows, heads, f"s3prl's {name}")
    task = {"normalize": config.normalize, "sample_rate": config.sample_rate}
    root: dict[str, Any] = {"task_cfg": task, "model_cfg": fields}
    if name == "data2vec_audio":
        root["model_weight"] = {**written.tensors, "_ema": {}}
    else:
        layout.make_up(written, checkpoint)
        root["model_weight"] = written.tensors
    if name == "hubert":
        task["label_rate"] = fields["label_rate"]
        root["dictionaries_symbols"] = layout.dictionaries(checkpoint, written.made_up)
    return Export(root=root, written=written.written, dropped=written.dropped, made_up=written.made_up)


def holds(config: Config) -> bool:
    """Whether s3prl has a copy of fairseq's class."""
    says = families()[config.family].says.get("fairseq")
    return says is not None and says(config)["_name"] in CLASSES


DIALECT = Dialect(
    name="s3prl_converted",
    recognise=recognise,
    read=read,
    target="s3prl",
    holds=holds,
    write=write,
    unsaid=fairseq.DIALECT.unsaid | {"symbols"},
)
