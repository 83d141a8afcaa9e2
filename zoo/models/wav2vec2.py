"""wav2vec 2.0 and what shares its architecture: XLSR-53, XLS-R, VoxPopuli, robust, MMS, and their fine-tuned models.

Papers: wav2vec 2.0 https://arxiv.org/abs/2006.11477, XLSR https://arxiv.org/abs/2006.13979,
XLS-R https://arxiv.org/abs/2111.09296, VoxPopuli https://arxiv.org/abs/2101.00390,
robust https://arxiv.org/abs/2104.01027, MMS https://arxiv.org/abs/2305.13516.
Upstream: fairseq `fairseq/models/wav2vec/wav2vec2.py` (3d262bb2, MIT).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from zoo.models._family import MIT_OR_APACHE, NO_LINK, Family, Preset, Source, preset, source
from zoo.models._speech_encoder import SpeechEncoder, SpeechEncoderConfig
from zoo.models._stop import stop_models

BASE = SpeechEncoderConfig(family="wav2vec2", layerdrop=0.05)
LARGE_GROUP_NORM = replace(BASE, num_layers=24, width=1024, ffn_width=4096, num_heads=16, dropout=0.0, layerdrop=0.2)
LARGE = replace(
    LARGE_GROUP_NORM, extractor_norm="layer", conv_bias=True, norm_first=True, normalize=True, layerdrop=0.0
)
LARGE_XLSR = replace(LARGE, attention_dropout=0.0, input_dropout=0.0)
ONE_BILLION = replace(LARGE, num_layers=48, width=1280, ffn_width=5120, attention_dropout=0.0)
TWO_BILLION = replace(ONE_BILLION, width=1920, ffn_width=7680)
ONE_BILLION_ADAPTED = replace(ONE_BILLION, adapter_width=16)

PARAMETERS = {
    BASE: 94_370_944,
    LARGE_GROUP_NORM: 315_427_968,
    LARGE: 315_437_696,
    LARGE_XLSR: 315_437_696,
    ONE_BILLION: 962_496_128,
    TWO_BILLION: 2_159_257_728,
    ONE_BILLION_ADAPTED: 964_647_296,
}

WAV2VEC2, XLSR, XLS_R, VOXPOPULI, ROBUST, SELF_TRAINING, ZERO_SHOT, S2ST, MMS = (
    f"https://arxiv.org/abs/{number}"
    for number in (
        "2006.11477",
        "2006.13979",
        "2111.09296",
        "2101.00390",
        "2104.01027",
        "2010.11430",
        "2109.11680",
        "2204.02967",
        "2305.13516",
    )
)


def _preset(name: str, config: SpeechEncoderConfig, data: str, *where: str | Source, **more: Any) -> Preset:
    """A preset, with the contradiction about its licence if it is at Hugging Face too."""
    made = preset(name, config, data, *where, **{"parameters": PARAMETERS, "paper": WAV2VEC2, **more})
    if made.licence == "MIT" and not made.licence_notes and any(s.dialect == "huggingface" for s in made.sources):
        made = replace(made, licence_notes=MIT_OR_APACHE)
    return made


PRETRAINED = (
    _preset(
        "wav2vec2_base_960", BASE, "LibriSpeech 960 h",
        "FB:wav2vec_small.pt", "S3:wav2vec_small.pt", "HF:facebook/wav2vec2-base",
        "TA:wav2vec2_fairseq_base_ls960.pth", aliases=("wav2vec2", "wav2vec_small", "WAV2VEC2_BASE"),
    ),
    _preset(
        "wav2vec2_large_960", LARGE_GROUP_NORM, "LibriSpeech 960 h",
        "FB:libri960_big.pt", "S3:libri960_big.pt", "HF:facebook/wav2vec2-large",
        "TA:wav2vec2_fairseq_large_ls960.pth", aliases=("libri960_big", "WAV2VEC2_LARGE"),
        notes="group norm and post-norm, unlike the other large models",
    ),
    _preset(
        "wav2vec2_large_ll60k", LARGE, "Libri-Light 60 kh",
        "FB:wav2vec_vox_new.pt", "S3:wav2vec_vox_new.pt", "HF:facebook/wav2vec2-large-lv60",
        "TA:wav2vec2_fairseq_large_lv60k.pth",
        aliases=("wav2vec2_large_lv60", "wav2vec_vox_new", "WAV2VEC2_LARGE_LV60K"),
    ),
    _preset(
        "wav2vec2_large_lv60_cv_swbd_fsh", LARGE, "Libri-Light, CommonVoice, Switchboard, Fisher",
        "FB:w2v_large_lv_fsh_swbd_cv.pt", "S3:w2v_large_lv_fsh_swbd_cv.pt", "HF:facebook/wav2vec2-large-robust",
        paper=ROBUST, confirmed=False, aliases=("wav2vec2_large_robust",),
    ),
    _preset(
        "xlsr_53", LARGE_XLSR, "MLS, CommonVoice, BABEL: 56 kh, 53 languages",
        "FB:xlsr_53_56k.pt", "FAIRSEQ:dl.fbaipublicfiles.com/joint_speech_text_4_s2t/iwslt/iwslt_data/xlsr_53_56k.pt",
        "S3:xlsr_53_56k.pt", "HF:facebook/wav2vec2-large-xlsr-53", "TA:wav2vec2_fairseq_large_xlsr53.pth",
        paper=XLSR, aliases=("wav2vec2_large_xlsr_53", "WAV2VEC2_XLSR53"),
    ),
    *(
        _preset(
            f"xls_r_{size}", config, "VoxPopuli, MLS, CommonVoice, VoxLingua107, BABEL: 436 kh, 128 languages",
            f"FB:{file}", f"S3:{file}", f"HF:facebook/wav2vec2-xls-r-{size}", f"TA:wav2vec2_xlsr_{size}.pth",
            paper=XLS_R, aliases=(f"WAV2VEC2_XLSR_{size.upper()}",),
        )
        for size, config, file in (
            ("300m", LARGE_XLSR, "xlsr2_300m.pt"),
            ("1b", ONE_BILLION, "xlsr2_960m_1000k.pt"),
            ("2b", TWO_BILLION, "xlsr2_2B_1000k.pt"),
        )
    ),
    *(
        _preset(
            f"mms_{size}", config, "491 kh, 1406 languages", f"MMS:pretraining/base_{size}.pt",
            f"HF:facebook/mms-{size}", paper=MMS, licence="CC-BY-NC-4.0",
        )
        for size, config in (("300m", LARGE_XLSR), ("1b", ONE_BILLION))
    ),
    *(
        _preset(
            f"wav2vec2_base_s2st_{language}_{corpus}", BASE, data, f"FBS:{language}/transformer_B.pt",
            f"S3:wav2vec2_base_s2st_{language}_{corpus}.pt", paper=S2ST, confirmed=False,
        )
        for language, corpus, data in (("en", "librilight", "Libri-Light"), ("es", "voxpopuli", "VoxPopuli Spanish"))
    ),
    _preset(
        "wav2vec2_large_s2st_es_voxpopuli", LARGE_XLSR, "VoxPopuli Spanish",
        source("FBS:es/transformer_L.pt", dead="the link is down (s3prl's wav2vec2/hubconf.py and pull request 439)"),
        source(
            "S3:wav2vec2-large-s2st-es-voxpopuli.pt",
            dead="it was not converted, as the original is down (s3prl's pull request 439)",
        ),
        paper=S2ST, confirmed=False, notes=NO_LINK + "wav2vec2_large_voxpopuli_es, which saw the same language",
    ),
)  # fmt: skip


def _voxpopuli(size: str, name: str, data: str, hf: str, *more: str) -> Preset:
    config = BASE if size == "base" else LARGE_XLSR
    return _preset(
        f"wav2vec2_{size}_voxpopuli_{name}", config, data, f"FBV:wav2vec2_{size}_{name}.pt", *more, hf,
        paper=VOXPOPULI, licence="CC-BY-NC-4.0", confirmed=(size, name) == ("base", "10k"),
    )  # fmt: skip


V2_LANGUAGES = "bg cs da de el en es et fi fr hr hu it lt lv mt nl pl pt ro sk sl sv".split()
V2_GROUPS = "romance west_germanic north_germanic slavic uralic baltic el mt".split()

VOXPOPULI_ENCODERS = (
    *(
        _voxpopuli(
            size, hours, f"VoxPopuli {hours}, 23 languages", f"HF:facebook/wav2vec2-{size}-{hours}-voxpopuli",
            *(("S3:wav2vec2_large_100k.pt",) if (size, hours) == ("large", "100k") else ()),
        )
        for size in ("base", "large")
        for hours in ("10k", "100k")
    ),
    *(
        _voxpopuli(size, lang, f"VoxPopuli v1 {lang}", f"HF:facebook/wav2vec2-{size}-{lang}-voxpopuli")
        for size in ("base", "large")
        for lang in ("es", "fr", "it", "nl", "sv")
    ),
    *(
        _voxpopuli("base", f"{lang}_v2", f"VoxPopuli v2 {lang}", f"HF:facebook/wav2vec2-base-{lang}-voxpopuli-v2")
        for lang in V2_LANGUAGES
    ),
    *(
        _voxpopuli("large", f"{group}_v2", f"VoxPopuli v2 {group}", f"HF:facebook/wav2vec2-large-{group}-voxpopuli-v2")
        for group in V2_GROUPS
    ),
)  # fmt: skip

ASR_LANGUAGES = "cs de en es et fi fr hr hu it lt nl pl ro sk sl".split()
ASR_REPOSITORIES = "de en es et fi fr it nl pl ro sk".split()  # that public code names; the others may exist
ASR_BUNDLES = "de en es fr it".split()

VOXPOPULI_FINE_TUNED = tuple(
    _preset(
        f"wav2vec2_base_voxpopuli_10k_ft_{lang}", BASE, f"VoxPopuli 10k, 23 languages, CTC on {lang}",
        f"FBV:vp_asr/wav2vec2_base_10k_ft_{lang}.tar",
        *([f"HF:facebook/wav2vec2-base-10k-voxpopuli-ft-{lang}"] if lang in ASR_REPOSITORIES else []),
        *([f"TA:wav2vec2_voxpopuli_base_10k_asr_{lang}.pt"] if lang in ASR_BUNDLES else []),
        aliases=(f"VOXPOPULI_ASR_BASE_10K_{lang.upper()}",) if lang in ASR_BUNDLES else (),
        paper=VOXPOPULI, licence="CC-BY-NC-4.0", confirmed=lang in ASR_BUNDLES,
    )
    for lang in ASR_LANGUAGES
)  # fmt: skip

FINE_TUNED = (
    *(
        _preset(
            f"wav2vec2_{parent}_ft_{amount}", config, f"{data}, CTC on {amount} of LibriSpeech or Libri-Light",
            f"FB:{file.format(amount)}", *([f"HF:facebook/{repositories[amount]}"] if amount in repositories else []),
            f"TA:wav2vec2_fairseq_{torchaudio}_asr_{ {'10m': 'll10m', '100h': 'ls100', '960h': 'ls960'}[amount] }.pth",
            aliases=(f"WAV2VEC2_ASR_{parent.removesuffix('_960').upper()}_{amount.upper()}",),
        )
        for parent, config, data, file, torchaudio, repositories in (
            ("base_960", BASE, "LibriSpeech 960 h", "wav2vec_small_{}.pt", "base_ls960",
             {"100h": "wav2vec2-base-100h", "960h": "wav2vec2-base-960h"}),
            ("large_960", LARGE_GROUP_NORM, "LibriSpeech 960 h", "wav2vec_big_{}.pt", "large_ls960",
             {"960h": "wav2vec2-large-960h"}),
        )
        for amount in ("10m", "100h", "960h")
    ),
    *(
        _preset(
            f"wav2vec2_large_ll60k_ft_{amount}", LARGE, f"Libri-Light 60 kh, CTC on {amount}", f"FB:{file}",
            *(["HF:facebook/wav2vec2-large-960h-lv60"] if amount == "960h" else []),
            f"TA:wav2vec2_fairseq_large_lv60k_asr_{torchaudio}.pth",
            aliases=(f"WAV2VEC2_ASR_LARGE_LV60K_{amount.upper()}",),
        )
        for amount, file, torchaudio in (
            ("10m", "wav2vec_vox_10m_new.pt", "ll10m"),
            ("100h", "wav2vec_vox_100h_new.pt", "ls100"),
            ("960h", "wav2vec2_vox_960h_new.pt", "ls960"),
        )
    ),
    *(
        _preset(
            f"wav2vec2_large_ll60k_pl_{amount}", LARGE, f"Libri-Light 60 kh, CTC on {amount} and pseudo-labels",
            f"FB:wav2vec_vox_{amount}_pl.pt",
            *(["HF:facebook/wav2vec2-large-960h-lv60-self"] if amount == "960h" else []), paper=SELF_TRAINING,
        )
        for amount in ("10m", "100h", "960h")
    ),
    *(
        _preset(
            f"wav2vec2_large_robust_ft_{name}", LARGE, data, f"FB:{file}", f"HF:facebook/{repository}", paper=ROBUST,
            confirmed=False,
        )
        for name, data, file, repository in (
            ("libri960", "robust, CTC on LibriSpeech 960 h", "w2v_large_lv_fsh_swbd_cv_ftls960_updated.pt",
             "wav2vec2-large-robust-ft-libri-960h"),
            ("swbd300", "robust, CTC on Switchboard 300 h", "w2v_large_lv_fsh_swbd_cv_ftsb300_updated.pt",
             "wav2vec2-large-robust-ft-swbd-300h"),
        )
    ),
    *(
        _preset(name, config, data, f"FB:zero_shot/{file}", f"HF:facebook/{repository}", paper=ZERO_SHOT)
        for name, config, data, file, repository in (
            ("wav2vec2_large_ll60k_espeak", LARGE, "Libri-Light, CTC on phones of 26 languages",
             "espeak_en_26lang_m10.pt", "wav2vec2-lv-60-espeak-cv-ft"),
            ("xlsr_53_espeak", LARGE_XLSR, "XLSR-53, CTC on phones of 26 languages",
             "espeak_26lang_m10.pt", "wav2vec2-xlsr-53-espeak-cv-ft"),
            ("xlsr_53_phonetisaurus_21", LARGE_XLSR, "XLSR-53, CTC on phones of 21 languages",
             "phonetisaurus_21lang_m10.pt", "wav2vec2-xlsr-53-phon-cv-ft"),
            ("xlsr_53_phonetisaurus_40", LARGE_XLSR, "XLSR-53, CTC on phones of 40 languages",
             "phonetisaurus_40lang_m10.pt", "wav2vec2-xlsr-53-phon-cv-babel-ft"),
        )
    ),
    *(
        _preset(
            f"mms_1b_{name}", ONE_BILLION_ADAPTED, f"MMS 1B, CTC on {data}",
            source(f"MMS:asr/mms1b_{name}.pt", language="eng"), f"HF:facebook/mms-1b-{name}", paper=MMS,
            licence="CC-BY-NC-4.0", confirmed=False,
            notes="with English's adapter, which is what the weights of the folder at Hugging Face hold; "
            "another language's: python -m zoo.convert --language, from fairseq's file",
        )
        for name, data in (
            ("fl102", "FLEURS, 102 languages"), ("l1107", "MMS-lab, 1107 languages"), ("all", "1162 languages"),
        )
    ),
    _preset(
        "xls_r_300m_voxlingua107", LARGE_XLSR, "XLS-R 300M, language identification, VoxLingua107",
        "FB:xlsr_300m_voxlingua107_ft.pt", paper=XLS_R, confirmed=False,
    ),
    *(
        _preset(
            f"mms_lid_{languages}", ONE_BILLION, f"MMS 1B, language identification, {languages} languages",
            f"MMS:lid/mms1b_l{languages}.pt", f"HF:facebook/mms-lid-{languages}", paper=MMS, licence="CC-BY-NC-4.0",
            confirmed=False,
        )
        for languages in (126, 256, 512, 1024, 2048, 4017)
    ),
    _preset(
        "mms_fa", LARGE_XLSR, "MMS 300M, CTC on 31 kh of romanised text, 1130 languages, for alignment",
        "MMST:ctc_alignment_mling_uroman/model.pt", paper=MMS, licence="CC-BY-NC-4.0", aliases=("MMS_FA",),
    ),
    *(
        _preset(
            f"xls_r_{size}_{direction}", config, f"XLS-R {size}, speech translation, {what}, CoVoST 2",
            f"FB:xls_r_{size}_{direction}.pt", paper=XLS_R, confirmed=False,
            notes="the encoder alone, without the decoder of text that stands on it; Hugging Face's folders of these "
            "models are not read",
        )
        for size, config, directions in (
            ("300m", LARGE_XLSR, ("21_en", "en_15")),
            ("1b", ONE_BILLION, ("21_en", "en_15")),
            ("2b", TWO_BILLION, ("21_en", "en_15", "22_16")),
        )
        for direction in directions
        for what in [{"21_en": "21 languages to English", "en_15": "English to 15", "22_16": "both ways"}[direction]]
    ),
    *(
        _preset(f"wav2vec2_base_{name}", BASE, f"LibriSpeech 960 h, {data}", where, **more)
        for name, data, where, more in stop_models("wav2vec")
    ),
)  # fmt: skip

FAMILY = Family(
    name="wav2vec2",
    config=SpeechEncoderConfig,
    model=SpeechEncoder,
    presets=PRETRAINED + VOXPOPULI_ENCODERS + VOXPOPULI_FINE_TUNED + FINE_TUNED,
    names={
        "fairseq": ("wav2vec2", "wav2vec_ctc"),
        "huggingface": ("wav2vec2", "Wav2Vec2"),
        "torchaudio": ("wav2vec2_model",),
    },
    fixed={"fairseq": {"padding_rule": "length"}},
    says={"fairseq": lambda config: {"_name": "wav2vec2"}},
)
