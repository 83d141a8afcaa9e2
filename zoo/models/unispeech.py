"""UniSpeech: wav2vec 2.0 large, trained with labels and contrastive loss together.

Paper: https://arxiv.org/abs/2101.07597. Upstream: microsoft/UniSpeech `UniSpeech` (40d3227). Its fairseq files nest
the encoder as a fine-tuned model's, and `final_proj` maps from the codebook to the encoder's width.
"""

from __future__ import annotations

from functools import partial

from zoo.models._family import NO_LINK, Family, Source, preset, source
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
_preset = partial(
    preset,
    parameters=PARAMETERS,
    paper="https://arxiv.org/abs/2101.07597",
    licence="CC-BY-SA-3.0",
    licence_notes="by the repository's licence file, which does not mention the weights",
)


def _expired(short: str, until: str) -> Source:
    """An original at Azure, whose address the README of microsoft/UniSpeech (40d3227) gives with a signature."""
    return source(f"{short}/checkpoint_best.pt", dead=f"its signature ended on {until}, by its own address")


PRESETS = (
    _preset(
        "unispeech_large_en", LARGE, "CommonVoice English 1350 h", "HF:microsoft/unispeech-large-1500h-cv",
        _expired("MSU:CommonVoiceEnglishPretrainedModel", "2022-07-15"),
    ),
    _preset(
        "unispeech_large_multi", LARGE, "CommonVoice English, French, Spanish, Italian",
        "HF:microsoft/unispeech-large-multi-lingual-1500h-cv",
        _expired("MSU:CommonVoiceMultilingualPretrainedModel", "2022-07-15"),
    ),
    *(
        _preset(
            f"unispeech_large_plus_{lang}", LARGE, f"CommonVoice English 1350 h, then {language} {hours} h unlabelled",
            _expired(f"MST:pt_{lang}{hours}.large.one2one_unispeech", "2023-10-26"),
            notes=NO_LINK + f"unispeech_large_ft_1h_{lang}, which was tuned from it",
        )
        for lang, language, hours in (("fr", "French", 353), ("es", "Spanish", 168), ("it", "Italian", 90))
    ),
    _preset(
        "unispeech_large_multi_ky", LARGE, "CommonVoice English, French, Spanish, Italian, then Kyrgyz 17 h unlabelled",
        _expired("MST:pt_ky17.large.many2one_unispeech", "2022-10-26"),
        notes=NO_LINK + "unispeech_large_ft_1h_ky, which was tuned for the same language",
    ),
    *(
        _preset(
            f"unispeech_large_ft_1h_{lang}", LARGE, f"CTC on 1 h of {language}", f"HF:microsoft/{repository}",
            *original, aliases=(f"unispeech_ft_1h_{lang}",),
        )
        for lang, language, repository, original in (
            ("fr", "French", "unispeech-1350-en-353-fr-ft-1h",
             [_expired("MST:ft_fr-pt_fr353.large.one2one_unispeech", "2023-10-26")]),
            ("es", "Spanish", "unispeech-1350-en-168-es-ft-1h",
             [_expired("MST:ft_es-pt_es168.large.one2one_unispeech", "2024-10-26")]),
            ("it", "Italian", "unispeech-1350-en-90-it-ft-1h",
             [_expired("MST:ft_it-pt_it90.large.one2one_unispeech", "2023-10-26")]),
            # The README links the pre-trained model's file in its place.
            ("ky", "Kyrgyz", "unispeech-1350-en-17h-ky-ft-1h", []),
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
