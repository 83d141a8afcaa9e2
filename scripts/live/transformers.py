"""transformers: the class that config.json names, and every key accounted for."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import torch
import transformers
from torch import Tensor

TARGET = "hf"


class Listener(logging.Handler):
    """Takes what transformers would print."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []
        transformers.logging.set_verbosity_warning()
        transformers.logging.disable_progress_bar()
        transformers.logging.disable_default_handler()
        transformers.logging.add_handler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


class Loaded:
    """A model of transformers behind its feature extractor."""

    def __init__(self, model: transformers.PreTrainedModel, extractor: transformers.Wav2Vec2FeatureExtractor) -> None:
        self.model, self.extractor = model, extractor
        self.kind = type(model).__name__

    def prepare(self, waveform: Tensor) -> dict[str, Tensor]:
        return dict(self.extractor(waveform.numpy(), sampling_rate=16000, return_tensors="pt"))

    def __call__(self, waveform: Tensor) -> list[Tensor]:
        """The last hidden state is the one after the final norm, which the list does not have for pre-norm models."""
        out = self.model.base_model(**self.prepare(waveform), output_hidden_states=True)
        return [*out.hidden_states[:-1], out.last_hidden_state]


class LoadedCTC(Loaded):
    """One with a CTC head."""

    def logits(self, waveform: Tensor) -> Tensor:
        return self.model(**self.prepare(waveform)).logits


def load(path: Path, work: Path) -> Loaded:
    said = Listener()
    (name,) = json.loads((path / "config.json").read_text())["architectures"]
    model, info = getattr(transformers, name).from_pretrained(path, output_loading_info=True, dtype=torch.float32)
    extractor = transformers.Wav2Vec2FeatureExtractor.from_pretrained(path)
    if (path / "vocab.json").exists():
        tokenizer = transformers.Wav2Vec2Processor.from_pretrained(path).tokenizer
        vocabulary = json.loads((path / "vocab.json").read_text())
        assert tokenizer.convert_tokens_to_ids(list(vocabulary)) == list(vocabulary.values())
        assert tokenizer.pad_token_id == model.config.pad_token_id, "the tokenizer's blank is not the model's"
    complaints = {what: keys for what, keys in {**info, "logged": said.messages}.items() if keys}
    assert not complaints, complaints
    return (LoadedCTC if name.endswith("ForCTC") else Loaded)(model.eval(), extractor)
