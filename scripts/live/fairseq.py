"""fairseq: its own loader, strict, which is given nothing but the file, and dictionaries that the file does not have.

Two things are helped, as tests/golden/make_fairseq.py and make_wav2vec_u.py do it: a dataclass of fairseq 0.12.3 lacks a
field that its own HuBERT recogniser reads, and Python 3.11 refuses a mutable default of wav2vec-U.
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
from fairseq.models import MODEL_DATACLASS_REGISTRY
from fairseq.models.hubert.hubert_asr import HubertCtcConfig
from fairseq.tasks import FairseqTask, register_task
from torch import Tensor
from torch.nn import functional as F

sys.path.append(str(Path(__file__).resolve().parents[2] / "tests" / "golden"))

import make_fairseq  # noqa: E402 (the hooks that recorded the golden data)
import make_mms  # noqa: E402
import make_wav2vec_u  # noqa: E402

TARGET = "fairseq"
OUTPUTS = "w2v_encoder.proj.weight"
CLASSES = "pooling_layer.projection.weight"


@dataclasses.dataclass
class _HubertCtcConfig(HubertCtcConfig):
    autoregressive: bool = False


class _Unpaired(FairseqTask):
    """Stands for wav2vec-U's task, whose imports need a decoder that is not built here."""

    @property
    def target_dictionary(self) -> Dictionary:
        return self.state.target_dictionary


class Loaded:
    """A model of fairseq and the normalisation of its task."""

    def __init__(self, model: torch.nn.Module, normalize: bool) -> None:
        self.model, self.normalize = model, normalize
        self.encoder = model.w2v_encoder.w2v_model if hasattr(model, "w2v_encoder") else model
        self.kind = type(model).__name__
        self.options: dict[str, Any] = {}
        if hasattr(self.encoder.encoder.layers[0], "adapter_layer"):
            make_mms.first_adapter(self.encoder)
            self.options = {"corpus_key": [0]}

    def source(self, waveform: Tensor) -> Tensor:
        return (F.layer_norm(waveform, waveform.shape) if self.normalize else waveform)[None]

    def __call__(self, waveform: Tensor) -> list[Tensor]:
        return make_fairseq.run(self.encoder, self.source(waveform)).states


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
        make_wav2vec_u.load_module()
        register_task("unpaired_audio_text")(_Unpaired)


def load(path: Path, work: Path) -> Loaded | Generator:
    prepare()
    content = torch.load(path, weights_only=True)  # as plain as it is said to be
    overrides: dict[str, Any] = {}
    key = next((key for key in (OUTPUTS, CLASSES) if key in content["model"]), None)
    if key and "target_dictionary" not in content["task_state"]:
        # Neither of the two kinds of file has one: fairseq looks for it beside the data.
        rows = len(content["model"][key]) - (4 if key == OUTPUTS else 0)
        name = content["cfg"]["task"]["labels"]
        (work / f"dict.{name}.txt").write_text("".join(f"symbol{n} 1\n" for n in range(rows)))
        overrides["data"] = str(work)
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
    made = LoadedCTC if OUTPUTS in content["model"] else Loaded
    return made(model, bool(cfg.task.normalize))
