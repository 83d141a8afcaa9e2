"""UniSpeech: wav2vec 2.0 large, trained with labels and contrastive loss together.

Paper: https://arxiv.org/abs/2101.07597. Upstream: microsoft/UniSpeech `UniSpeech` (40d3227). Its fairseq files nest
the encoder as a fine-tuned model's, and `final_proj` maps from the codebook to the encoder's width.
"""

from __future__ import annotations

from functools import partial

from zoo.models._family import Family, preset
from zoo.models._speech_encoder import SpeechEncoder, SpeechEncoderConfig

LARGE = SpeechEncoderConfig(
    family="unispeech",
    extractor_norm="layer",
    conv_bias=True,
    num_layers=24,
    width=1024,
    ffn_width=4096,
    num_heads=16,
    norm_first=True,
    normalize=True,
)

PARAMETERS = {LARGE: 315_437_696}
_preset = partial(preset, parameters=PARAMETERS, paper="https://arxiv.org/abs/2101.07597", licence="CC-BY-SA-3.0")

PRESETS = (
    _preset("unispeech_large_en", LARGE, "CommonVoice English 1350 h", "HF:microsoft/unispeech-large-1500h-cv"),
    _preset(
        "unispeech_large_multi", LARGE, "CommonVoice English, French, Spanish, Italian",
        "HF:microsoft/unispeech-large-multi-lingual-1500h-cv",
    ),
    *(
        _preset(f"unispeech_large_ft_1h_{language}", LARGE, f"CTC on 1 h of {name}", f"HF:microsoft/{repository}")
        for language, name, repository in (
            ("fr", "French", "unispeech-1350-en-353-fr-ft-1h"),
            ("es", "Spanish", "unispeech-1350-en-168-es-ft-1h"),
            ("it", "Italian", "unispeech-1350-en-90-it-ft-1h"),
            ("ky", "Kyrgyz", "unispeech-1350-en-17h-ky-ft-1h"),
        )
    ),
)  # fmt: skip

FAMILY = Family(
    name="unispeech",
    config=SpeechEncoderConfig,
    model=SpeechEncoder,
    presets=PRESETS,
    names={"fairseq": ("unispeech",), "huggingface": ("unispeech", "UniSpeech"), "torchaudio": ("wav2vec2_model",)},
    fixed={"fairseq": {"padding_rule": "length"}},
)
