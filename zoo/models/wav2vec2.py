"""wav2vec 2.0 and what shares its architecture: XLSR-53, XLS-R, VoxPopuli, robust, MMS, and their fine-tuned models.

Papers: wav2vec 2.0 https://arxiv.org/abs/2006.11477, XLSR https://arxiv.org/abs/2006.13979,
XLS-R https://arxiv.org/abs/2111.09296, VoxPopuli https://arxiv.org/abs/2101.00390,
robust https://arxiv.org/abs/2104.01027, MMS https://arxiv.org/abs/2305.13516.
Upstream: fairseq `fairseq/models/wav2vec/wav2vec2.py` (3d262bb2, MIT).
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from zoo.models._family import Family, Preset, preset
from zoo.models._speech_encoder import SpeechEncoder, SpeechEncoderConfig

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


_preset = partial(preset, parameters=PARAMETERS, paper=WAV2VEC2)

PRETRAINED = (
    _preset(
        "wav2vec2_base_960", BASE, "LibriSpeech 960 h",
        "FB:wav2vec_small.pt", "S3:wav2vec_small.pt", "HF:facebook/wav2vec2-base",
        "TA:wav2vec2_fairseq_base_ls960.pth", aliases=("wav2vec2",),
    ),
    _preset(
        "wav2vec2_large_960", LARGE_GROUP_NORM, "LibriSpeech 960 h",
        "FB:libri960_big.pt", "S3:libri960_big.pt", "HF:facebook/wav2vec2-large",
        "TA:wav2vec2_fairseq_large_ls960.pth", notes="group norm and post-norm, unlike the other large models",
    ),
    _preset(
        "wav2vec2_large_ll60k", LARGE, "Libri-Light 60 kh",
        "FB:wav2vec_vox_new.pt", "S3:wav2vec_vox_new.pt", "HF:facebook/wav2vec2-large-lv60",
        "TA:wav2vec2_fairseq_large_lv60k.pth",
    ),
    _preset(
        "wav2vec2_large_lv60_cv_swbd_fsh", LARGE, "Libri-Light, CommonVoice, Switchboard, Fisher",
        "FB:w2v_large_lv_fsh_swbd_cv.pt", "S3:w2v_large_lv_fsh_swbd_cv.pt", "HF:facebook/wav2vec2-large-robust",
        paper=ROBUST, confirmed=False,
    ),
    _preset(
        "xlsr_53", LARGE_XLSR, "MLS, CommonVoice, BABEL: 56 kh, 53 languages",
        "FB:xlsr_53_56k.pt", "S3:xlsr_53_56k.pt", "HF:facebook/wav2vec2-large-xlsr-53",
        "TA:wav2vec2_fairseq_large_xlsr53.pth", paper=XLSR,
    ),
    *(
        _preset(
            f"xls_r_{size}", config, "VoxPopuli, MLS, CommonVoice, VoxLingua107, BABEL: 436 kh, 128 languages",
            f"FB:{file}", f"S3:{file}", f"HF:facebook/wav2vec2-xls-r-{size}", f"TA:wav2vec2_xlsr_{size}.pth",
            paper=XLS_R,
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

FINE_TUNED = (
    *(
        _preset(
            f"wav2vec2_{parent}_ft_{amount}", config, f"{data}, CTC on {amount} of LibriSpeech or Libri-Light",
            f"FB:{file.format(amount)}", *([f"HF:facebook/{repositories[amount]}"] if amount in repositories else []),
            f"TA:wav2vec2_fairseq_{torchaudio}_asr_{ {'10m': 'll10m', '100h': 'ls100', '960h': 'ls960'}[amount] }.pth",
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
            f"mms_1b_{name}", ONE_BILLION_ADAPTED, f"MMS 1B, CTC on {data}", f"HF:facebook/mms-1b-{name}", paper=MMS,
            licence="CC-BY-NC-4.0", confirmed=False, notes="with the adapter that the folder's weights hold, English's",
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
)  # fmt: skip

FAMILY = Family(
    name="wav2vec2",
    config=SpeechEncoderConfig,
    model=SpeechEncoder,
    presets=PRETRAINED + VOXPOPULI_ENCODERS + FINE_TUNED,
    names={
        "fairseq": ("wav2vec2", "wav2vec_ctc"),
        "huggingface": ("wav2vec2", "Wav2Vec2"),
        "torchaudio": ("wav2vec2_model",),
    },
    fixed={"fairseq": {"padding_rule": "length"}},
    says={"fairseq": lambda config: {"_name": "wav2vec2"}},
)
