"""s3prl: its distiller, its copy of Microsoft's class, its spectral models on waveforms, and its baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import make_s3prl  # first: it gives torchaudio the names that s3prl asks for
import make_s3prl_distiller
import numpy as np
import torch
from generator import waveform
from s3prl.upstream.baseline import hubconf as baselines
from s3prl.upstream.wavlm import WavLM
from torch import Tensor, nn

import zoo
from tests.golden import spectral
from tests.golden.compare import Case, Comparison
from tests.golden.live import wavlm_class
from tests.golden.live.agreement import (
    Measured,
    config_differences,
    least_unit,
    own_noise,
    plain,
    speech,
    together,
)
from tests.golden.live.examples import Example
from zoo.models import baseline
from zoo.models.tera import TeraConfig


def distilled(example: Example, folder: Path) -> Comparison:
    """Compares one example of DistilHuBERT."""
    config = example.config
    fields = {
        **make_s3prl_distiller.BASE,
        "extractor_mode": wavlm_class.MODES[config.extractor_norm],
        "extractor_conv_feature_layers": str(list(config.conv_layers)),
        "conv_pos": config.pos_conv_kernel,
        "conv_pos_groups": config.pos_conv_groups,
        "encoder_layers": config.num_layers,
        "encoder_embed_dim": config.width,
        "encoder_ffn_embed_dim": config.ffn_width,
        "encoder_attention_heads": config.num_heads,
        "layer_norm_first": config.norm_first,
    }

    def build(double: bool) -> Any:
        model = make_s3prl_distiller.build(fields, example.seed, example.scale)
        model = make_s3prl_distiller.in_double(model) if double else model
        return model, make_s3prl_distiller.runner(model), lambda wave: wave

    return speech(example, folder, build, {"dialect": "s3prl_distiller", "config": {"distiller": fields}})


def audio(config: TeraConfig) -> dict[str, Any]:
    """The section of a configuration that says which features there are."""
    if config.kaldi:
        options: dict[str, Any] = {"frame_length": config.frame_length_ms, "frame_shift": config.frame_shift_ms}
        if config.features != "spectrogram":
            options["num_mel_bins"] = config.mel_bands
        if config.features == "mfcc":
            options["num_ceps"] = config.cepstra
        if config.features == "fbank":
            options["use_log_fbank"] = True
        return {
            "kaldi": {"feat_type": config.features, config.features: options},
            "delta": {"order": config.delta_order, "win_length": config.delta_window},
            "cmvn": {"use_cmvn": config.cmvn},
        }
    chosen = {"feat_type": config.features, "log": True, "delta": config.delta_order, "cmvn": config.cmvn}
    sizes = {"win_ms": 25, "hop_ms": 10, "n_freq": 201, "n_mels": config.mel_bands, "n_mfcc": 13}
    return {"target_level": -25, **sizes, "input": {**chosen, "channel": 0}, "target": {**chosen, "channel": 1}}


def in_double(model: nn.Module) -> nn.Module:
    """An expert in float64, also where it turns its features into float32."""
    model.double()
    transformer = model.transformer
    process = transformer.process_input_data

    def processed(features: Tensor) -> tuple[Tensor, ...]:
        return features, *(value.double() for value in process(features)[1:])

    transformer.process_input_data = processed
    return model


def tera(example: Example, folder: Path) -> Comparison:
    """Compares one example of TERA and its siblings."""
    config = example.config
    fields = {
        "hidden_size": config.width,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.ffn_width,
        "hidden_act": config.activation,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "layer_norm_eps": config.norm_eps,
        "share_layer": config.share_layers,
        "pre_layer_norm": config.norm_first,
    }
    make_s3prl.CASES["live"] = (audio(config), fields, config.chunk_frames, "Config")
    path = folder / "live.ckpt"
    model, state, _ = make_s3prl.expert("live", example.seed, example.scale, path)
    waves = [torch.from_numpy(waveform(spec)) for spec in example.utterances]
    values = plain(make_s3prl.compute(model, waves))
    exact = plain(make_s3prl.compute(in_double(model), [wave.double() for wave in waves]))
    frames = {"padded": [len(values["padded/0"][0])] * len(waves)}
    facts = {"state": state, "utterances": example.utterances}
    found = zoo.load(path)
    same = config_differences(found.config, config)
    noise = own_noise(values, exact, frames)
    single = spectral.compare_model(Case("live", facts, values), found, Measured(noise=noise, least=least_unit(values)))
    # Some of the noise stays: the zoo's transforms of Kaldi's features, torchaudio's filters are tables in float32.
    exactly = Measured(noise=noise, least=least_unit(exact))
    double = spectral.compare_model(Case("live", facts, exact), found.double(), exactly)
    return together(same, single, double)


def baseline_values(model: nn.Module, waves: Sequence[Tensor]) -> dict[str, Tensor]:
    """Each utterance alone, the batch, and the gradient of the first."""
    arrays: dict[str, Tensor] = {}
    for i, wave in enumerate(waves):
        wave = wave.clone().requires_grad_()
        value = arrays[f"single{i}/0"] = model([wave])["hidden_states"][0][0]
        if i == 0:
            (arrays["grad/input"],) = torch.autograd.grad(value.pow(2).mean(), [wave])
    arrays["padded/0"] = model(list(waves))["hidden_states"][0]
    return arrays


def compare_baseline(want: Mapping[str, np.ndarray], found: Any, waves: Sequence[Tensor], result: Measured) -> Measured:
    """Holds a baseline against what s3prl gave, in units of its largest value."""

    def check(stage: str, got: Tensor, wanted: np.ndarray) -> None:
        result.check(stage, got, wanted, "transform", float(np.abs(wanted).max()))

    lengths = [len(wave) for wave in waves]
    found.padding = "exact"
    batch = nn.utils.rnn.pad_sequence(list(waves), batch_first=True, padding_value=float("nan"))
    together = found(batch, lengths).hidden_states[0]
    for i, wave in enumerate(waves):
        wave = wave.clone().requires_grad_()
        value, wanted = found(wave[None]).hidden_states[0][0], want[f"single{i}/0"]
        check(f"single{i}/0", value, wanted)
        check(f"exact{i}/0", together[i, : len(wanted)], wanted)
        if i == 0:
            value.square().mean().backward()
            unit = float(np.linalg.norm(want["grad/input"]))
            result.check("gradient/input", wave.grad, want["grad/input"], "gradient", unit)
    found.padding = "reference"
    check("padded/0", found(list(waves)).hidden_states[0], want["padded/0"])
    return result


def features(example: Example, folder: Path) -> Comparison:
    """Compares one example of a baseline, of which there is nothing but its name."""
    (name,) = (preset.name for preset in baseline.PRESETS if preset.config == example.config)
    waves = [torch.from_numpy(waveform(spec)) for spec in example.utterances]
    values = plain(baseline_values(getattr(baselines, name)().eval(), waves))
    exact_waves = [wave.double() for wave in waves]
    exact = plain(baseline_values(getattr(baselines, name)().eval().double(), exact_waves))
    frames = {"padded": [len(values["padded/0"][0])] * len(waves)}
    noise = own_noise(values, exact, frames)
    noise["states"] /= max(float(np.abs(value).max()) for key, value in values.items() if key != "grad/input")
    found = zoo.load(name)
    single = compare_baseline(values, found, waves, Measured(noise=noise))
    double = compare_baseline(exact, found.double(), exact_waves, Measured(noise=noise))
    return together([], single, double)


TWINS = {
    "distilhubert": distilled,
    "wavlm": partial(wavlm_class.agree, WavLM),
    "unispeech_sat": partial(wavlm_class.agree, WavLM),
    "tera": tera,
    "baseline": features,
}
