"""DistilHuBERT: two layers that predict HuBERT's fourth, eighth and twelfth.

Paper: https://arxiv.org/abs/2110.01900. Upstream: s3prl 0.4.18 `upstream/distiller` (Apache-2.0).
HuBERT's encoder without the layer norm before the projection, and with the length rule for padded frames. s3prl lists
the projection where the zoo's first hidden state stands (what enters the first layer), and lists the predictions of
the three heads after the layers; those are kept under `heads.output_layer`.
"""

from __future__ import annotations

from zoo.models._family import Family, preset
from zoo.models._speech_encoder import SpeechEncoder, SpeechEncoderConfig

BASE = SpeechEncoderConfig(
    family="distilhubert", feature_norm=False, num_layers=2, activation_dropout=0.1, input_dropout=0.0
)

PRESETS = (
    preset(
        "distilhubert_base", BASE, "LibriSpeech 960 h, distilled from hubert_base",
        "DISTIL:distilhubert_ls960_4-8-12.ckpt", "HF:ntu-spml/distilhubert", parameters={BASE: 23_491_200},
        paper="https://arxiv.org/abs/2110.01900", licence="Apache-2.0", aliases=("distilhubert",),
    ),
)  # fmt: skip

FAMILY = Family(
    name="distilhubert",
    config=SpeechEncoderConfig,
    model=SpeechEncoder,
    presets=PRESETS,
    names={"huggingface": ("hubert", "Hubert")},
    fixed={
        "s3prl_distiller": {"feature_norm": False, "padding_rule": "length"},
        "huggingface": {"feature_norm": False},
    },
    required={"huggingface": {"feat_proj_layer_norm": (False,)}},
    rows={"s3prl_distiller": (("output_layer.{rest}", "heads.output_layer.{rest}"),)},
)
