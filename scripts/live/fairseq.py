"""fairseq: its own loader, strict, which is given the file, and dictionaries where the file does not have them.

What fairseq 0.12.3 cannot do by itself is helped as the makers in tests/golden do it: a dataclass lacks a field that
its own HuBERT recogniser reads; its Conformer is called with arguments that it does not take; Python 3.11 refuses a
mutable default of wav2vec-U and data2vec 2.0, which needs timm besides. wav2vec-U's task is a stand-in, as its module
needs a decoder that is not built here.
"""

from __future__ import annotations

import dataclasses
import logging
import sys
from pathlib import Path
from typing import Any

import fairseq.examples.data2vec.models.data2vec_audio  # noqa: F401 (registers itself)
import torch
from fairseq import checkpoint_utils
from fairseq.data import Dictionary
from fairseq.dataclass import FairseqDataclass
from fairseq.models import MODEL_DATACLASS_REGISTRY
from fairseq.models.hubert.hubert_asr import HubertCtcConfig
from fairseq.tasks import FairseqTask, register_task
from torch import Tensor
from torch.nn import functional as F

sys.path.append(str(Path(__file__).resolve().parents[2] / "tests" / "golden"))

import make_conformer
import make_data2vec2
import make_fairseq  # whose hooks recorded the golden data
import make_mms
import make_wav2vec_u

TARGET = "fairseq"
LETTERS, CLASSES, PHONES = OUTPUTS = (
    "w2v_encoder.proj.weight", "pooling_layer.projection.weight", "generator.proj.1.weight"
)  # fmt: skip


@dataclasses.dataclass
class _HubertCtcConfig(HubertCtcConfig):
    autoregressive: bool = False


@dataclasses.dataclass
class _UnpairedConfig(FairseqDataclass):
    data: str = ""
    text_data: str = ""
    labels: str = ""


class _Unpaired(FairseqTask):
    """wav2vec-U's task, as far as a model is built with it."""

    @property
    def target_dictionary(self) -> Dictionary:
        return Dictionary.load(f"{self.cfg.text_data}/dict.txt")

    @classmethod
    def setup_task(cls, cfg: _UnpairedConfig, **kwargs: Any) -> FairseqTask:
        return cls(cfg)


class Loaded:
    """A model of fairseq and the normalisation of its task."""

    def __init__(self, model: torch.nn.Module, normalize: bool) -> None:
        self.model, self.normalize = model, normalize
        self.encoder = model.w2v_encoder.w2v_model if hasattr(model, "w2v_encoder") else model
        self.kind = type(model).__name__
        self.options: dict[str, Any] = {}
        self.run = make_fairseq.run
        if type(self.encoder).__name__ == "Data2VecMultiModel":
            self.run = make_data2vec2.run
        elif hasattr(self.encoder.encoder.layers[0], "adapter_layer"):
            make_mms.first_adapter(self.encoder)
            self.options = {"corpus_key": [0]}

    def source(self, waveform: Tensor) -> Tensor:
        return (F.layer_norm(waveform, waveform.shape) if self.normalize else waveform)[None]

    def __call__(self, waveform: Tensor) -> list[Tensor]:
        return self.run(self.encoder, self.source(waveform)).states


class LoadedCTC(Loaded):
    """A recogniser."""

    def logits(self, waveform: Tensor) -> Tensor:
        out = self.model(source=self.source(waveform), padding_mask=None, **self.options)
        return out["encoder_out"].transpose(0, 1)


class Generator:
    """wav2vec-U's generator."""

    kind = "Wav2vec_U"

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model

    def __call__(self, features: Tensor) -> list[Tensor]:
        return []

    def logits(self, features: Tensor) -> Tensor:
        padded = torch.zeros(1, len(features), dtype=torch.bool)
        return self.model.generator(features[None], None, padded)["dense_x"]


def prepare() -> None:
    """Once for all files."""
    logging.disable(logging.WARNING)
    MODEL_DATACLASS_REGISTRY["hubert_ctc"] = _HubertCtcConfig
    if "wav2vec_u" not in MODEL_DATACLASS_REGISTRY:
        make_conformer.tolerate()
        make_wav2vec_u.load_module()
        make_data2vec2.load_classes()
        register_task("unpaired_audio_text", dataclass=_UnpairedConfig)(_Unpaired)


def load(path: Path, work: Path) -> Loaded | Generator:
    prepare()
    content = torch.load(path, weights_only=True)  # as plain as it is said to be
    key = next((key for key in OUTPUTS if key in content["model"]), None)
    overrides: dict[str, Any] = {}
    if key and (key == PHONES or "target_dictionary" not in content["task_state"]):
        # As in fairseq's own file, which leaves the dictionary beside the data; classes have no specials.
        rows = len(content["model"][key]) - (0 if key == CLASSES else 4)
        labels = content["cfg"]["task"]["labels"]  # HuBERT's are a list
        labels = labels if isinstance(labels, str) else labels[0]
        name = "dict.txt" if key == PHONES else f"dict.{labels}.txt"
        (work / name).write_text("".join(f"symbol{n} 1\n" for n in range(rows)))
        overrides = {"data": str(work), "text_data": str(work)}
    try:
        (model,), cfg, _ = checkpoint_utils.load_model_ensemble_and_task([str(path)], overrides)
    except Exception as error:  # whatever it is, it is fairseq's complaint
        raise AssertionError(f"{type(error).__name__}: {error}") from error
    model.eval()
    stored = model.state_dict()
    teacher = {name for name in stored if name == "_ema"}
    assert stored.keys() - teacher == content["model"].keys() - teacher
    if hasattr(model, "generator"):
        return Generator(model)
    made = LoadedCTC if LETTERS in content["model"] else Loaded
    return made(model, bool(cfg.task.normalize))
