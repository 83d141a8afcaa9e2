"""What is drawn: configurations, weights' seeds and utterances, for every toolkit and family. No toolkit is needed.

Configurations are the zoo's own, so that it is the zoo that says which exist; a toolkit's module beside this one says
the same in the toolkit's words. Options are those that released models use, in every combination that both take. What
stands first is what Hypothesis shrinks to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from tests.golden.generator import SCALES
from zoo.layers.lengths import min_samples
from zoo.models import baseline
from zoo.models._speech_encoder import SpeechEncoderConfig
from zoo.models.conformer import ConformerConfig
from zoo.models.data2vec2 import Data2vec2Config
from zoo.models.tera import TeraConfig
from zoo.models.wav2vec_u import WavVecUConfig

Fields = Mapping[str, SearchStrategy[Any]]
RECORDINGS = {"2412-153948-0000.flac": 186_560, "2412-153948-0001.flac": 168_160}  # and their samples
LONGEST = 5200  # samples: 16 frames of most models, so that every part of them is at work
SHORT_FRAMES = 3  # of the utterance whose gradients are compared alone; of one frame, attention's are zero


@dataclass(frozen=True)
class Example:
    """A model and what it is given.

    Attributes:
        config: the zoo's configuration of it.
        seed, scale: of its weights, see `generator.py`.
        utterances: descriptions as `generator.waveform` takes them; of a model that takes features, their lengths.
    """

    config: Any
    seed: int
    scale: str
    utterances: tuple[Any, ...]


def utterances(shortest: int, first: int) -> SearchStrategy[tuple[dict[str, Any], ...]]:
    """Two or three utterances of at least `shortest` samples, the first of at least `first`: speech, loud or quiet."""

    def speech(least: int) -> SearchStrategy[dict[str, Any]]:
        excerpts = st.sampled_from(sorted(RECORDINGS)).flatmap(
            lambda name: st.fixed_dictionaries(
                {
                    "file": st.just(name),
                    "start": st.integers(0, RECORDINGS[name] - LONGEST),
                    "samples": st.integers(least, LONGEST),
                    "gain": st.sampled_from((1.0, 2.0, 0.3, 0.05)),
                    "offset": st.sampled_from((0.0, 0.01, -0.05)),
                }
            )
        )
        noise = {
            "noise": st.integers(0, 9),
            "samples": st.integers(least, LONGEST),
            "gain": st.sampled_from((0.1, 0.9)),
        }
        return st.one_of(excerpts, st.fixed_dictionaries(noise))

    return st.tuples(speech(first), st.lists(speech(shortest), min_size=1, max_size=2)).map(
        lambda pair: (pair[0], *pair[1])
    )


def example(configs: SearchStrategy[Any], given: Callable[[Any], SearchStrategy[Any]]) -> SearchStrategy[Example]:
    """A model of one of the configurations, and what it is given."""
    return configs.flatmap(
        lambda config: st.builds(Example, st.just(config), st.integers(0, 9999), st.sampled_from(SCALES), given(config))
    )


# --------------------------------------------------------------------------------------------------------------------
# Families with a convolutional front end

KERNELS = (
    ((10, 5), *[(3, 2)] * 4, *[(2, 2)] * 2),  # of every released model
    ((10, 5), (8, 4), (4, 4), (2, 2)),
    ((16, 8), (5, 4), (3, 3)),
)
CHANNELS = (16, 24, 20)
SIZES = {"num_layers": st.integers(1, 3), "ffn_width": st.sampled_from((16, 64, 40))}
HEADS = st.tuples(st.sampled_from((2, 1, 4, 3, 6)), st.sampled_from((8, 4, 12)))


@st.composite
def conv_layers(draw: Callable[..., Any]) -> tuple[tuple[int, int, int], ...]:
    """A front end, with as many channels everywhere or not."""
    kernels = draw(st.sampled_from(KERNELS))
    channels = draw(
        st.one_of(
            st.sampled_from(CHANNELS).map(lambda c: [c] * len(kernels)),
            st.lists(st.sampled_from(CHANNELS), min_size=len(kernels), max_size=len(kernels)),
        )
    )
    return tuple((c, k, s) for c, (k, s) in zip(channels, kernels))


def speech_encoder(
    family: str, kind: type[SpeechEncoderConfig] = SpeechEncoderConfig, **choices: Any
) -> SearchStrategy[Example]:
    """Models of a family with a convolutional front end.

    Args:
        family: its name.
        kind: class of its configuration.
        **choices: fields in place of those drawn below: a strategy, a value, or a function that gives one of the two
            from the fields before it.
    """

    @st.composite
    def configs(draw: Callable[..., Any]) -> SpeechEncoderConfig:
        heads, head_width = draw(HEADS)
        chosen: dict[str, Any] = {"family": family, "num_heads": heads, "width": heads * head_width}
        groups = [n for n in (1, 2, 4, 8, 16) if heads * head_width % n == 0]
        drawn: dict[str, Any] = {
            # fairseq has no projection where it would keep the width
            "conv_layers": conv_layers().filter(lambda layers: layers[-1][0] != heads * head_width),
            "extractor_norm": st.sampled_from(("group", "layer")),
            "conv_bias": st.booleans(),
            "norm_first": st.booleans(),
            "pos_conv_kernel": st.sampled_from((3, 16, 31, 95, 128)),
            "pos_conv_groups": st.sampled_from(groups),
            "normalize": st.booleans(),
            **SIZES,
            **{field.name: 0.0 for field in fields(kind) if field.name.endswith(("dropout", "layerdrop"))},
            **choices,
        }
        for name, choice in drawn.items():
            choice = choice(chosen) if callable(choice) else choice
            chosen[name] = draw(choice) if isinstance(choice, SearchStrategy) else choice
        return kind(**chosen)

    def given(config: SpeechEncoderConfig) -> SearchStrategy[Any]:
        shortest = min_samples(tuple((k, s) for _, k, s in config.conv_layers))
        return utterances(shortest, shortest + (SHORT_FRAMES - 1) * config.hop_length)

    return example(configs(), given)


def evenly(example: Example) -> Example:
    """The same with utterances as long as the first, for a toolkit that cannot be told where one ends."""
    samples = example.utterances[0]["samples"]
    return replace(example, utterances=tuple({**spec, "samples": samples} for spec in example.utterances))


def distances(chosen: Mapping[str, Any]) -> SearchStrategy[int]:
    """Largest distances of WavLM's buckets."""
    exact = chosen["relative_buckets"] // 4
    return st.sampled_from([n for n in (800, exact + 1, 10, 20, 1280) if n > exact])


def adapters(chosen: Mapping[str, Any]) -> SearchStrategy[int]:
    """Widths of MMS's adapters, which transformers builds into pre-norm blocks only."""
    return st.sampled_from((0, 8, 16) if chosen["norm_first"] else (0,))


def prenets(chosen: Mapping[str, Any]) -> SearchStrategy[int]:
    """How many blocks of data2vec 2.0 stand in its prenet."""
    return st.integers(0, chosen["num_layers"] - 1)


def ratios(chosen: Mapping[str, Any]) -> SearchStrategy[int]:
    """Feed-forward widths of data2vec 2.0, which are said as a ratio."""
    return st.sampled_from((1.0, 1.5, 4.0)).map(lambda ratio: int(ratio * chosen["width"]))


STACKED = {"pos_conv_norm": "layer", "pos_conv_kernel": st.sampled_from((19, 3, 4, 7))}
GATED = {"relative_buckets": st.sampled_from((16, 8, 32, 320)), "relative_max_distance": distances}
CONFORMER = {
    "positions": st.sampled_from(("relative", "rotary")),
    "depthwise_kernel": st.sampled_from((3, 9, 31)),
}
BATCH_NORM = {"pos_conv_norm": st.sampled_from(("weight", "batch"))}
RESHAPED = {"padding_rule": "reshape"}
# What a folder's processor says, and its epsilon.
PROCESSOR = {"normalize_eps": 1e-7, "attention_mask": st.booleans()}


# --------------------------------------------------------------------------------------------------------------------
# Families on spectral features, and on others' features


def audible(shortest: int) -> SearchStrategy[Any]:
    """Utterances none of which is so quiet that features are rounding: s3prl adds 1e-10 to a deviation."""
    return utterances(shortest, shortest).map(
        lambda specs: tuple({**spec, "gain": max(spec["gain"], 0.5)} for spec in specs)
    )


@st.composite
def tera_configs(draw: Callable[..., Any]) -> TeraConfig:
    """TERA and its siblings, on Kaldi's features or s3prl's own."""
    heads, head_width = draw(HEADS)
    features = draw(st.sampled_from(("mel", "fbank", "linear", "mfcc", "spectrogram")))
    kaldi = features in ("fbank", "mfcc", "spectrogram")
    return TeraConfig(
        family="tera",
        features=features,
        mel_bands=draw(st.sampled_from((80, 40) if features in ("mel", "fbank") else (80,) if not kaldi else (23,))),
        delta_order=draw(st.integers(0, 2)),
        delta_window=draw(st.sampled_from((5, 9) if kaldi else (5,))),
        cmvn=draw(st.booleans()),
        level_db=None if kaldi else -25.0,
        num_heads=heads,
        width=heads * head_width,
        ffn_width=draw(SIZES["ffn_width"]),
        num_layers=draw(SIZES["num_layers"]),
        activation=draw(st.sampled_from(("gelu", "relu", "swish"))),
        norm_eps=draw(st.sampled_from((1e-12, 1e-5))),
        norm_first=draw(st.booleans()),
        share_layers=draw(st.booleans()),
        chunk_frames=draw(st.sampled_from((1500, 0, 12, 5))),
        dropout=0.0,
        attention_dropout=0.0,
    )


@st.composite
def generators(draw: Callable[..., Any]) -> WavVecUConfig:
    """wav2vec-U and its discriminator."""
    residual = draw(st.booleans())
    blank = draw(st.booleans())
    kernel = draw(st.sampled_from((3, 6, 8)))
    symbols = ("<s>", "<pad>", "</s>", "<unk>", *(("<ctc_blank>",) if blank else ()), *"ABCDE", "<SIL>")
    chosen = {
        "input_dim": draw(st.sampled_from((16, 24))),
        "generator_kernel": draw(st.sampled_from((4, 9, 3))),
        "generator_stride": draw(st.sampled_from((1, 2, 3))),
        "generator_dilation": draw(st.sampled_from((1, 2))),
        "generator_pad": draw(st.sampled_from((-1, 1))),
        "generator_bias": draw(st.booleans()),
        "generator_batch_norm": draw(st.sampled_from((0.0, 2.0, 30.0))),
        "generator_residual": residual,
        "auxiliary_dim": draw(st.sampled_from((0, 7) if residual else (0,))),
        "segmentation": draw(st.sampled_from(("NONE", "JOIN", "RANDOM", "UNIFORM_RANDOM", "UNIFORM_RANDOM_JOIN"))),
        "subsample_rate": draw(st.sampled_from((0.25, 0.5, 0.7))),
        "mean_pool": draw(st.booleans()),
        "mean_pool_join": draw(st.booleans()),
        "remove_zeros": draw(st.booleans()),
        "blank_weight": draw(st.sampled_from((0.0, 0.5))),
        "blank_mode": draw(st.sampled_from(("add", "set"))),
        "blank_is_sil": draw(st.booleans()),
        "discriminator_kernel": kernel,
        # fairseq does not pad for it: longer kernels would need more text than the makers give
        "discriminator_dilation": draw(st.sampled_from((1, 2) if kernel == 3 else (1,))),
        "discriminator_dim": draw(st.sampled_from((8, 16))),
        "discriminator_depth": draw(st.integers(1, 3)),
        "discriminator_causal": draw(st.booleans()),
        "discriminator_linear_emb": draw(st.booleans()),
        "discriminator_act_after_linear": draw(st.booleans()),
        "discriminator_max_pool": draw(st.booleans()),
        "discriminator_norm": draw(st.sampled_from(("none", "weight", "spectral"))),
    }
    return WavVecUConfig(family="wav2vec_u", vocabulary=len(symbols), symbols=symbols, **chosen)


def features(config: WavVecUConfig) -> SearchStrategy[Any]:
    """Three lengths, in frames of features; a quarter of them is enough for the largest generator."""
    return st.tuples(*[st.integers(72, 110)] * 3)


SPECTRAL = {
    "tera": example(tera_configs(), lambda config: audible(2 * config.min_samples)),
    "baseline": example(
        st.sampled_from([preset.config for preset in baseline.PRESETS]),
        lambda config: audible(2 * config.min_samples),
    ),
}

# --------------------------------------------------------------------------------------------------------------------

# Toolkit -> family -> what is drawn. data2vec: transformers has post-norm blocks on a layer-norm front end alone.
DRAWN: dict[str, dict[str, SearchStrategy[Example]]] = {
    "transformers": {
        "wav2vec2": speech_encoder("wav2vec2", **PROCESSOR, adapter_width=adapters),
        "hubert": speech_encoder("hubert", **PROCESSOR, **BATCH_NORM),
        "distilhubert": speech_encoder("distilhubert", **PROCESSOR, feature_norm=False),
        "data2vec": speech_encoder(
            "data2vec",
            **PROCESSOR,
            **STACKED,
            pos_conv_depth=st.integers(1, 5),
            extractor_norm="layer",
            norm_first=False,
        ),
        "wavlm": speech_encoder("wavlm", **PROCESSOR, **GATED),
        "unispeech": speech_encoder("unispeech", **PROCESSOR),
        "unispeech_sat": speech_encoder("unispeech_sat", **PROCESSOR),
        "wav2vec2_conformer": speech_encoder(
            "wav2vec2_conformer", ConformerConfig, **PROCESSOR, **CONFORMER, norm_first=True
        ),
    },
    "fairseq": {
        "wav2vec2": speech_encoder("wav2vec2", adapter_width=st.sampled_from((0, 8, 16))),
        "hubert": speech_encoder("hubert", **RESHAPED, **BATCH_NORM),
        "data2vec": speech_encoder("data2vec", **STACKED, pos_conv_depth=st.integers(2, 5)),
        "data2vec2": speech_encoder(
            "data2vec2",
            Data2vec2Config,
            **STACKED,
            pos_conv_depth=st.integers(2, 5),
            prenet_layers=prenets,
            ffn_width=ratios,
            norm_first=False,
            extractor_norm="layer",
            conv_bias=False,
        ),
        "wav2vec2_conformer": speech_encoder("wav2vec2_conformer", ConformerConfig, **CONFORMER),
        "wav2vec_u": example(generators(), features),
    },
    "microsoft": {
        "wavlm": speech_encoder("wavlm", **RESHAPED, **GATED),
        "unispeech_sat": speech_encoder("unispeech_sat", **RESHAPED),
    },
    "s3prl": {
        "distilhubert": speech_encoder("distilhubert", feature_norm=False, conv_bias=False, normalize=False),
        "wavlm": speech_encoder("wavlm", **RESHAPED, **GATED),
        "unispeech_sat": speech_encoder("unispeech_sat", **RESHAPED),
        **SPECTRAL,
    },
    "torchaudio": {
        "wav2vec2": speech_encoder("wav2vec2"),
        "hubert": speech_encoder("hubert"),
        "wavlm": speech_encoder("wavlm", **GATED).map(evenly),
    },
}
FAMILIES = sorted({family for families in DRAWN.values() for family in families})
