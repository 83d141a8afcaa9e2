"""HuBERT and what shares its architecture: mHuBERT, ContentVec, robust and Fisher variants, fine-tuned models.

Paper: https://arxiv.org/abs/2106.07447. Upstream: fairseq `fairseq/models/hubert/hubert.py` (3d262bb2, MIT).
The encoder is wav2vec 2.0's without convolution biases; the frame mask of a padded batch is made by reshaping.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from zoo.models._family import MIT_OR_APACHE, Family, preset, source, typed
from zoo.models._speech_encoder import SpeechEncoder, SpeechEncoderConfig
from zoo.models._stop import stop_models

BASE = SpeechEncoderConfig(family="hubert", padding_rule="reshape", layerdrop=0.05)
LARGE = replace(
    BASE,
    extractor_norm="layer",
    num_layers=24,
    width=1024,
    ffn_width=4096,
    num_heads=16,
    norm_first=True,
    normalize=True,
    dropout=0.0,
    attention_dropout=0.0,
    input_dropout=0.0,
    layerdrop=0.0,
)
XLARGE = replace(LARGE, num_layers=48, width=1280, ffn_width=5120)

PARAMETERS = {BASE: 94_370_944, LARGE: 315_434_112, XLARGE: 962_492_544}
HUBERT = "https://arxiv.org/abs/2106.07447"
# Its authors' own toolkit checks these hashes when it downloads.
TEXTLESS = (
    "https://github.com/facebookresearch/textlesslib/blob/ba33d669d8284b4f7bfe81e7384e83ab799fe384/"
    "textless/checkpoint_manager/__init__.py"
)
BOX = "the address is a page for browsers, not the file (README of auspicious3000/contentvec, d746688a)"


_preset = partial(preset, parameters=PARAMETERS, paper=HUBERT)

PRESETS = (
    _preset(
        "hubert_base", BASE, "LibriSpeech 960 h, second iteration",
        source(
            "FBH:hubert_base_ls960.pt",
            sha256="1703cf8d2cdc76f8c046f5f6a9bcd224e0e6caf4744cad1a1f4199c32cac8c8d", cited=TEXTLESS,
        ),
        "S3:hubert_base_ls960.pt", "HF:facebook/hubert-base-ls960", "TA:hubert_fairseq_base_ls960.pth",
        aliases=("hubert", "hubert_base_ls960", "HUBERT_BASE"),
        licence_notes=MIT_OR_APACHE,
    ),
    _preset(
        "hubert_large_ll60k", LARGE, "Libri-Light 60 kh", "FBH:hubert_large_ll60k.pt", "S3:hubert_large_ll60k.pt",
        "HF:facebook/hubert-large-ll60k", "TA:hubert_fairseq_large_ll60k.pth", aliases=("HUBERT_LARGE",),
    ),
    _preset(
        "hubert_xlarge_ll60k", XLARGE, "Libri-Light 60 kh", "FBH:hubert_xtralarge_ll60k.pt",
        "HF:facebook/hubert-xlarge-ll60k", "TA:hubert_fairseq_xlarge_ll60k.pth",
        aliases=("hubert_xtralarge_ll60k", "HUBERT_XLARGE"),
    ),
    _preset(
        "hubert_large_ft_960h", LARGE, "Libri-Light 60 kh, CTC on LibriSpeech 960 h",
        "FBH:hubert_large_ll60k_finetune_ls960.pt", "HF:facebook/hubert-large-ls960-ft",
        "TA:hubert_fairseq_large_ll60k_asr_ls960.pth", aliases=("HUBERT_ASR_LARGE",),
    ),
    _preset(
        "hubert_xlarge_ft_960h", XLARGE, "Libri-Light 60 kh, CTC on LibriSpeech 960 h",
        "FBH:hubert_xtralarge_ll60k_finetune_ls960.pt", "HF:facebook/hubert-xlarge-ls960-ft",
        "TA:hubert_fairseq_xlarge_ll60k_asr_ls960.pth", aliases=("HUBERT_ASR_XLARGE",),
    ),
    _preset(
        "mhubert_base_vp_en_es_fr_it3", BASE, "VoxPopuli English, Spanish, French; third iteration",
        source(
            "FBH:mhubert_base_vp_en_es_fr_it3.pt",
            sha256="23527cd6311a6617bfa199f574e2eed478cd6a58a634f4007165c10ec0019832", cited=TEXTLESS,
        ),
        "S3:mhubert_base_vp_en_es_fr_it3.pt",
        paper="https://arxiv.org/abs/2112.08352", confirmed=False, aliases=("mhubert",),
        notes="hf:voidful/mhubert-base is another's conversion, and not held to the same numbers",
    ),
    _preset(
        "contentvec_km100", BASE, "LibriSpeech 960 h, speakers disentangled, 100 clusters", "S3:contentvec_km100.pt",
        source("BOX:t76fff0dciyjqt1db03y48323qp99bg9", dead=BOX),
        paper="https://arxiv.org/abs/2204.09224", aliases=("contentvec",),
    ),
    _preset(
        "contentvec_km500", BASE, "LibriSpeech 960 h, speakers disentangled, 500 clusters", "S3:contentvec_km500.pt",
        source("BOX:z1wgl1stco8ffooyatzdwsqn2psd9lrr", dead=BOX),
        paper="https://arxiv.org/abs/2204.09224",
        notes="checkpoint_best_legacy_500.pt, which voice conversion also calls hubert_base.pt; "
        "hf:lengyue233/content-vec-best is another's conversion, and not held to the same numbers",
    ),
    _preset(
        "hubert_base_robust_mgr", BASE, "LibriSpeech 960 h with MUSAN, Gaussian noise and reverberation",
        "FAIRSEQ:huggingface.co/kphuang68/HuBERT_base_robust_mgr/resolve/main/"
        "HuBERT_base_robust_mgr_best_loss_2.7821.pt",
        "S3:HuBERT_base_robust_mgr_best_loss_2.7821.pt", licence="NOASSERTION",
        paper="https://arxiv.org/abs/2203.16104", confirmed=False, aliases=("hubert_mgr",),
        licence_notes="the releaser states no licence",
    ),
    _preset(
        "hubert_fisher", BASE, "Fisher, third iteration",
        "FAIRSEQ:dl.fbaipublicfiles.com/textless_nlp/dgslm/checkpoints/hubert/hubert_fisher.pt",
        paper="https://arxiv.org/abs/2203.16502", confirmed=False,
    ),
    _preset(
        "mhubert_147", BASE, "90 kh, 147 languages", "HF:utter-project/mHuBERT-147",
        paper="https://arxiv.org/abs/2406.06371", licence="CC-BY-NC-SA-4.0", confirmed=False,
        notes="unrelated to mhubert_base_vp_en_es_fr_it3; fairseq's file lies beside the folder's weights",
    ),
    _preset(
        "ms_hubert", BASE, "LibriSpeech 960 h", "S3C:MS-HuBERT/resolve/main/iter3.pt",
        licence="NOASSERTION", paper="https://arxiv.org/abs/2406.05661", confirmed=False,
        licence_notes="the releaser states no licence",
    ),
    *(
        _preset(f"hubert_base_{name}", BASE, f"LibriSpeech 960 h, {data}", where, **more)
        for name, data, where, more in stop_models("hubert")
    ),
)  # fmt: skip

BATCH_NORM = "conv_pos_batch_norm"

FAMILY = Family(
    name="hubert",
    config=SpeechEncoderConfig,
    model=SpeechEncoder,
    presets=PRESETS,
    names={
        "fairseq": ("hubert", "hubert_ctc", "hubert_pretraining"),
        "huggingface": ("hubert", "Hubert"),
        "torchaudio": ("wav2vec2_model",),
    },
    fixed={"fairseq": {"padding_rule": "reshape"}},
    fields={
        "huggingface": lambda get, shapes: {
            "pos_conv_norm": "batch" if typed(BATCH_NORM, get(BATCH_NORM, False), bool) else "weight"
        }
    },
    says={
        "fairseq": lambda config: {"_name": "hubert", "label_rate": 50.0},
        "huggingface": lambda config: {BATCH_NORM: config.pos_conv_norm == "batch"},
    },
    rows={"fairseq": (("label_embs_concat", "heads.label_embs_concat"),)},
)
