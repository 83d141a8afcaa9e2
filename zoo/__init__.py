"""Self-supervised speech models in pure PyTorch, numerically held to their reference implementations.

import zoo
model = zoo.load("hubert_base.pt")          # a registry name, a native file or another toolkit's checkpoint
out = model(waveforms, lengths)             # (B, S) at model.sample_rate, (B,) samples
out.hidden_states                           # L + 1 tensors (B, T, D)
"""

from __future__ import annotations

from zoo import testing
from zoo._audio import Extraction, extract, load_audio
from zoo._checkpoint import build, load, save
from zoo._registry import ModelInfo, info, list_models
from zoo._store import FeatureStore
from zoo._units import Units
from zoo.errors import ZooError
from zoo.layers.masking import Masking
from zoo.models._family import EncoderOutput

__version__ = "0.1.0"

__all__ = [
    "EncoderOutput",
    "Extraction",
    "FeatureStore",
    "Masking",
    "ModelInfo",
    "Units",
    "ZooError",
    "build",
    "extract",
    "info",
    "list_models",
    "load",
    "load_audio",
    "save",
    "testing",
]
