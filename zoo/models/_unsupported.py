"""Models that are near to those of the zoo but not among them; `docs/models.md` lists them.

Facts: s3prl `upstream/{lighthubert,multires_hubert,espnet_hubert}/hubconf.py` (ec8064b5), microsoft/UniSpeech
`ILS-SSL/README.md` (40d3227).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Unsupported:
    """A model that cannot be converted.

    Attributes:
        name: what people call it.
        names: what its released checkpoints are called, in s3prl where that has them.
        models: names by which configurations call it.
        key: pattern of the keys that nobody else has; empty: it has none.
        reason: why it is not supported.
        instead: what to use.
    """

    name: str
    names: tuple[str, ...]
    models: tuple[str, ...]
    key: str
    reason: str
    instead: str


UNSUPPORTED = (
    Unsupported(
        "multi-resolution HuBERT",
        (
            "multires_hubert_base",
            "multires_hubert_large",
            "multires_hubert_multilingual_base",
            "multires_hubert_multilingual_large400k",
            "multires_hubert_multilingual_large600k",
        ),
        ("multires_hubert", "multires_hubert_pretraining", "multires_hubert_ctc"),
        r"(w2v_encoder\.w2v_model\.)?(middle_encoder|(down|up)sample_modules)\..*",
        "its layers run at several frame rates, so its hidden states have no common length",
        "hubert_base, hubert_large_ll60k or mhubert_base_vp_en_es_fr_it3",
    ),
    Unsupported(
        "an ESPnet model",
        (
            "espnet_hubert_base_iter0",
            "espnet_hubert_base_iter1",
            "espnet_hubert_large_gs_ll60k",
            "cvhubert",
            "wavlablm_ek_40k",
            "wavlablm_mk_40k",
            "wavlablm_ms_40k",
        ),
        (),
        r"(encoder\.)?hubert_pretrain_model\..*",
        "its configuration is a YAML file beside it",
        "hubert_base, hubert_large_ll60k or wavlm_large",
    ),
    Unsupported(
        "LightHuBERT",
        ("lighthubert", "lighthubert_small", "lighthubert_base", "lighthubert_stage1"),
        ("hubert_pruner", "student_hubert"),
        "",
        "it is a supernet, from which a sub-network of each layer's own size is chosen after loading",
        "distilhubert, which is small as well",
    ),
    Unsupported(
        "ILS-HuBERT",
        ("ils_hubert_base", "ils_hubert_large", "ils_hubert_large_ft"),
        ("ils_hubert",),
        r".*post_layer_norm\..*",
        "its released files cannot be fetched any more, so nothing could be proved with one",
        "hubert_base, hubert_large_ll60k or hubert_large_ft_960h",
    ),
)
