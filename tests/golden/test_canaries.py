"""Planted bugs that the comparison must catch: each canary breaks a model in one way, and the golden case must fail.

A canary that passes means that the suite has gone blind to that bug.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import zoo
from tests.golden.compare import Case, compare
from zoo.layers import attention, conv, lengths, transformer
from zoo.models import _speech_encoder, conformer, data2vec2

Plant = Callable[[nn.Module, pytest.MonkeyPatch], None]

POST, PRE = "wav2vec2_post_norm_usual", "wav2vec2_pre_norm_usual"
LIVELY, HUBERT, BATCH = "wav2vec2_post_norm_lively", "hubert_post_norm_usual", "hubert_batch_norm_usual"
DATA2VEC, WAVLM, WAVLM_PRE = "data2vec_usual", "wavlm_post_norm_lively", "wavlm_pre_norm_lively"
DISTIL, MMS = "distilhubert_usual", "mms_pre_norm_usual"
SAT, UNISPEECH, HF_NO_MASK = "unispeech_sat_post_norm_usual", "hf_unispeech_pre_norm_usual", "hf_wavlm_post_norm_usual"

DATA2VEC2 = "data2vec2_lively"
RELATIVE, ROTARY = "conformer_relative_lively", "conformer_rotary_lively"


def tanh_gelu(module: object) -> Plant:
    class Functional:
        gelu = staticmethod(lambda x: F.gelu(x, approximate="tanh"))

        def __getattr__(self, name: str) -> object:
            return getattr(F, name)

    return lambda model, patch: patch.setattr(module, "F", Functional())


def swapped(first: str, second: str) -> Plant:
    def plant(model: nn.Module, patch: pytest.MonkeyPatch) -> None:
        path, _, leaf = first.rpartition(".")
        other_path, _, other_leaf = second.rpartition(".")
        owner, other = model.get_submodule(path), model.get_submodule(other_path)
        a, b = owner.get_submodule(leaf), other.get_submodule(other_leaf)
        owner._modules[leaf], other._modules[other_leaf] = b, a

    return plant


def eps(path: str, value: float) -> Plant:
    return lambda model, patch: patch.setattr(model.get_submodule(path), "eps", value)


def replaced(path: str, forward: Callable[..., Tensor]) -> Plant:
    return lambda model, patch: patch.setattr(model.get_submodule(path), "forward", forward)


def heads(count: int) -> Plant:
    def plant(model: nn.Module, patch: pytest.MonkeyPatch) -> None:
        for layer in model.encoder.layers:
            patch.setattr(layer.attention, "heads", count)

    return plant


def sdpa(change: Callable[..., Tensor]) -> Plant:
    class Functional:
        scaled_dot_product_attention = staticmethod(change)

    return lambda model, patch: patch.setattr(attention, "F", Functional())


def unscaled(q: Tensor, k: Tensor, v: Tensor, **options: object) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, scale=1.0, **options)


def unmasked(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None, dropout_p: float) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v)


def detached_keys(q: Tensor, k: Tensor, v: Tensor, **options: object) -> Tensor:
    return F.scaled_dot_product_attention(q, k.detach(), v, **options)


def wrong_weight_norm(self: nn.Module, x: Tensor) -> Tensor:
    weight = self.weight_v * (self.weight_g / self.weight_v.norm(dim=2, keepdim=True))
    return conv.same_conv1d(x, weight, self.bias, self.groups)


def other_side_padded(x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
    kernel = weight.shape[2]
    return F.conv1d(F.pad(x, ((kernel - 1) // 2, kernel // 2)), weight, bias, groups=groups)


def set_class(owner: object, name: str, value: object) -> Plant:
    return lambda model, patch: patch.setattr(owner, name, value)


def whole_batch_group_norm(model: nn.Module, patch: pytest.MonkeyPatch) -> None:
    original = conv.FeatureExtractor.forward
    patch.setattr(conv.FeatureExtractor, "forward", lambda self, x, valid=None: original(self, x))


def no_normalisation(x: Tensor, valid: lengths.Valid | None, eps: float) -> Tensor:
    return x


def unbiased(x: Tensor, valid: lengths.Valid | None, eps: float) -> Tensor:
    n = torch.full((len(x),), x.shape[1]) if valid is None else valid.lengths
    return ORIGINAL_NORMALISE(x, valid, eps) * torch.sqrt(1 - 1 / n)[:, None]


def other_eps(x: Tensor, valid: lengths.Valid | None, eps: float) -> Tensor:
    return ORIGINAL_NORMALISE(x, valid, 1e-7)


def over_padding(x: Tensor, valid: lengths.Valid | None, eps: float) -> Tensor:
    return F.layer_norm(x, x.shape[1:], eps=eps)


def fairseq_eps(x: Tensor, valid: lengths.Valid | None, eps: float) -> Tensor:
    return ORIGINAL_NORMALISE(x, valid, 1e-5)


def bias_without_padding(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor, dropout_p: float) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask.nan_to_num(neginf=0.0))


def masked_all_the_same(model: nn.Module, patch: pytest.MonkeyPatch) -> None:
    model.config = dataclasses.replace(model.config, attention_mask=True)


ORIGINAL_NORMALISE = lengths.normalise_waveforms


def positions_see_padding(model: nn.Module, patch: pytest.MonkeyPatch) -> None:
    """Padded frames are not zeroed before the positional convolution."""
    original = transformer.TransformerEncoder.forward

    def forward(self: nn.Module, x: Tensor, padded: Tensor | None, *rest: object) -> object:
        if padded is not None:
            x = torch.where(padded[:, :, None], x.mean(1, keepdim=True), x)
        return original(self, x, padded, *rest)

    patch.setattr(transformer.TransformerEncoder, "forward", forward)


def batch_norm_leaks(model: nn.Module, patch: pytest.MonkeyPatch) -> None:
    original = conv.BatchNormPositionalConv.forward
    patch.setattr(conv.BatchNormPositionalConv, "forward", lambda self, x, padded: original(self, x, None))


def states_off_by_one(model: nn.Module, patch: pytest.MonkeyPatch) -> None:
    original = transformer.TransformerEncoder.forward

    def forward(self: nn.Module, *args: object) -> dict[int, Tensor]:
        states = original(self, *args)
        return {k: states.get(max(k - 1, 0), state) for k, state in states.items()}

    patch.setattr(transformer.TransformerEncoder, "forward", forward)


def detached_feed_forward(self: nn.Module, x: Tensor, *masks: Tensor | None) -> Tensor:
    """Right forward, wrong backward: nothing but the gradients can show it."""
    x = self.layer_norm(x + self.dropout(self.attention(x, *masks)))
    return self.final_layer_norm(x + self.feed_forward(x.detach()))


def stack_forgets_padding(model: nn.Module, patch: pytest.MonkeyPatch) -> None:
    """Padding is not zeroed again between the blocks of data2vec's positional stack."""
    original = conv.StackedPositionalConv.forward
    patch.setattr(conv.StackedPositionalConv, "forward", lambda self, x, padded: original(self, x, None))


def block_without_norm(self: nn.Module, x: Tensor) -> Tensor:
    return F.gelu(self.conv(x))


def bias_changed(change: Callable[[Tensor], Tensor]) -> Plant:
    """Change WavLM's position bias (H, T, T) before it is gated."""
    original = attention.GatedRelativeAttention.position_bias
    return set_class(
        attention.GatedRelativeAttention, "position_bias", lambda self, frames: change(original(self, frames))
    )


def gate_lost(model: nn.Module, patch: pytest.MonkeyPatch) -> None:
    """The bias is added without its gate."""

    def forward(self: nn.Module, x: Tensor, allowed: Tensor | None, position_bias: Tensor) -> Tensor:
        mask = position_bias if allowed is None else position_bias.masked_fill(~allowed, -float("inf"))
        return self.attend(x, mask)

    patch.setattr(attention.GatedRelativeAttention, "forward", forward)


def first_block_alone_is_biased(model: nn.Module, patch: pytest.MonkeyPatch) -> None:
    for layer in model.encoder.layers[1:]:
        patch.setattr(layer.attention, "forward", lambda x, allowed, bias, a=layer.attention: a.attend(x, allowed))


def buckets(change: Callable[[Tensor, int, int], Tensor]) -> Plant:
    return set_class(attention, "distance_buckets", change)


ORIGINAL_BUCKETS = attention.distance_buckets


def forgotten_bias(path: str) -> Plant:
    return lambda model, patch: model.get_submodule(path).bias.data.zero_()


def reshape_rule(model: nn.Module, patch: pytest.MonkeyPatch) -> None:
    model.config = dataclasses.replace(model.config, padding_rule="reshape")


def adapter(forward: Callable[[nn.Module, Tensor], Tensor]) -> Plant:
    return set_class(transformer.Adapter, "forward", forward)


def gelu_for_swish(model: nn.Module, patch: pytest.MonkeyPatch) -> None:
    class Functional:
        silu = staticmethod(F.gelu)

        def __getattr__(self, name: str) -> object:
            return getattr(F, name)

    patch.setattr(conformer, "F", Functional())


def whole_feed_forward(self: nn.Module, x: Tensor, allowed: Tensor | None, *rest: Tensor | None) -> Tensor:
    """Feed-forward layers in full instead of by halves."""
    positions, outside = rest
    x = x + self.ffn1(self.ffn1_layer_norm(x))
    x = x + self.self_attn(self.self_attn_layer_norm(x), allowed, positions)
    x = x + self.conv_module(x, outside)
    return self.final_layer_norm(x + self.ffn2(self.ffn2_layer_norm(x)))


def rotate(x: Tensor, positions: Tensor, heads: int) -> Tensor:
    cos, sin = positions
    first, second = x.unflatten(2, (heads, -1)).chunk(2, 3)
    return (x.unflatten(2, (heads, -1)) * cos + torch.cat((-second, first), 3) * sin).flatten(2)


def rotated_late(self: nn.Module, x: Tensor, allowed: Tensor | None, positions: Tensor) -> Tensor:
    """Queries and keys rotated after their projection, as most models do."""
    q, k = (rotate(proj(x), positions, self.heads) for proj in (self.linear_q, self.linear_k))
    return self.attend(self.split(q), self.split(k), self.split(self.linear_v(x)), allowed)


def rotated_values(self: nn.Module, x: Tensor, allowed: Tensor | None, positions: Tensor) -> Tensor:
    x = rotate(x, positions, self.heads)
    return self.attend(*(self.split(proj(x)) for proj in (self.linear_q, self.linear_k, self.linear_v)), allowed)


def shared_by_conformer(change: Callable[..., tuple[Tensor | None, ...]]) -> Plant:
    """Change what the blocks are given: allowed keys, positions, frames that convolutions must not see."""
    original = conformer.ConformerEncoder.shared

    def shared(self: nn.Module, x: Tensor, padded: Tensor | None, exact: bool) -> tuple[Tensor | None, ...]:
        return change(padded, exact, *original(self, x, padded, exact))

    return set_class(conformer.ConformerEncoder, "shared", shared)


def biases_exchanged(model: nn.Module, patch: pytest.MonkeyPatch) -> None:
    for layer in model.encoder.layers:
        owner = layer.self_attn
        owner.pos_bias_u.data, owner.pos_bias_v.data = owner.pos_bias_v.data, owner.pos_bias_u.data


def standard_frequencies(model: nn.Module, patch: pytest.MonkeyPatch) -> None:
    """What the configuration says instead of what the file holds."""
    positions = model.encoder.embed_positions
    positions.inv_freq = conformer.frequencies(2 * len(positions.inv_freq))


def distance_bias(change: Callable[[Tensor], Tensor]) -> Plant:
    """Change data2vec 2.0's bias (H, T, T)."""
    original = data2vec2.Data2vec2Encoder.distance_bias
    changed = lambda self, frames, dtype: change(original(self, frames, dtype))  # noqa: E731
    return set_class(data2vec2.Data2vec2Encoder, "distance_bias", changed)


def negative_scale(model: nn.Module, patch: pytest.MonkeyPatch) -> None:
    """A negative scale lets its head look at far frames instead of at all alike."""
    patch.setattr(torch.Tensor, "clamp", lambda x, min: x)


def one_series(model: nn.Module, patch: pytest.MonkeyPatch) -> None:
    """Slopes in one geometric series, though the number of heads is no power of two."""
    heads = len(model.encoder.slopes)
    model.encoder.slopes = [2.0 ** (-8.0 * (i + 1) / heads) for i in range(heads)]


ORIGINAL_BY_KEY = conformer.by_key
LAYER = "encoder.layers.0"
CANARIES: dict[str, tuple[str, Plant]] = {
    "query and key swapped": (POST, swapped(f"{LAYER}.attention.q_proj", f"{LAYER}.attention.k_proj")),
    "query and value swapped": (POST, swapped(f"{LAYER}.attention.q_proj", f"{LAYER}.attention.v_proj")),
    "layers swapped": (POST, swapped("encoder.layers.0", "encoder.layers.1")),
    "norms of a block swapped": (POST, swapped(f"{LAYER}.layer_norm", f"{LAYER}.final_layer_norm")),
    "tanh GELU in the feed-forward layers": (POST, tanh_gelu(transformer)),
    "tanh GELU in the convolutions": (POST, tanh_gelu(conv)),
    "eps of a block's norm": (POST, eps(f"{LAYER}.layer_norm", 1e-3)),
    "eps of the group norm": (POST, eps("feature_extractor.conv_layers.0.layer_norm", 1e-7)),
    "eps of the feature norm": (PRE, eps("feature_projection.layer_norm", 1e-3)),
    "eps of the waveform normalisation": (PRE, set_class(_speech_encoder, "normalise_waveforms", other_eps)),
    "waveform normalisation missing": (PRE, set_class(_speech_encoder, "normalise_waveforms", no_normalisation)),
    "waveform normalisation with unbiased variance": (PRE, set_class(_speech_encoder, "normalise_waveforms", unbiased)),
    "waveform normalisation over the padding": (PRE, set_class(_speech_encoder, "normalise_waveforms", over_padding)),
    "number of heads": (LIVELY, heads(2)),
    "attention without scale": (LIVELY, sdpa(unscaled)),
    "attention without padding mask": (POST, sdpa(unmasked)),
    "gradient of the keys lost": (POST, sdpa(detached_keys)),
    "gradient around the feed-forward layer lost": (
        POST,
        set_class(transformer.PostNormLayer, "forward", detached_feed_forward),
    ),
    "weight norm over the wrong axis": (POST, set_class(conv.WeightNormConv1d, "forward", wrong_weight_norm)),
    "positional convolution padded on the other side": (POST, set_class(conv, "same_conv1d", other_side_padded)),
    "positional convolution sees the padding": (POST, positions_see_padding),
    "batch norm shifts the padding": (BATCH, batch_norm_leaks),
    "group norm over the padding": (POST, whole_batch_group_norm),
    "length rule instead of reshape rule": (
        HUBERT,
        lambda model, patch: patch.setattr(
            lengths.Valid,
            "reshaped_padding_mask",
            lambda self, size, total: self.after(model.kernels_and_strides).padding_mask(total),
        ),
    ),
    "pre-norm blocks in a post-norm model": (
        POST,
        set_class(transformer.PostNormLayer, "forward", transformer.PreNormLayer.forward),
    ),
    "final norm missing": (PRE, set_class(transformer.PreNormEncoder, "leave", lambda self, x: x)),
    "norm before the first block missing": (POST, set_class(transformer.PostNormEncoder, "enter", lambda self, x: x)),
    "feature norm missing": (POST, replaced("feature_projection.layer_norm", lambda x: x)),
    "convolution bias forgotten": (PRE, forgotten_bias("feature_extractor.conv_layers.2.conv")),
    "output bias of attention forgotten": (LIVELY, forgotten_bias(f"{LAYER}.attention.out_proj")),
    "hidden states off by one": (POST, states_off_by_one),
    "data2vec: padding leaks through the stack": (DATA2VEC, stack_forgets_padding),
    "data2vec: a block of the stack missing": (
        DATA2VEC,
        lambda model, patch: model.encoder.pos_conv_embed.layers.pop(4),
    ),
    "data2vec: blocks of the stack swapped": (
        DATA2VEC,
        swapped("encoder.pos_conv_embed.layers.1", "encoder.pos_conv_embed.layers.3"),
    ),
    "data2vec: stack without norms": (DATA2VEC, set_class(conv.PositionalConvBlock, "forward", block_without_norm)),
    "data2vec 2.0: no distance bias": (DATA2VEC2, distance_bias(torch.zeros_like)),
    "data2vec 2.0: one head's bias for all": (DATA2VEC2, distance_bias(lambda bias: bias[:1].expand_as(bias))),
    "data2vec 2.0: nearer frames only behind": (DATA2VEC2, distance_bias(lambda bias: bias.tril())),
    "data2vec 2.0: negative scale not clamped": (DATA2VEC2, negative_scale),
    "data2vec 2.0: slopes in one series": (DATA2VEC2, one_series),
    "data2vec 2.0: padding mask lost beside the bias": (DATA2VEC2, sdpa(bias_without_padding)),
    "data2vec 2.0: prenet behind the other blocks": (DATA2VEC2, swapped("encoder.layers.0", "encoder.layers.1")),
    "data2vec 2.0: padding blanked that the reference shows": (
        DATA2VEC2,
        set_class(data2vec2.Data2vec2, "blank", _speech_encoder.SpeechEncoder.blank),
    ),
    "DistilHuBERT: norm before the projection": (
        DISTIL,
        replaced("feature_projection.layer_norm", lambda x: F.layer_norm(x, x.shape[2:])),
    ),
    "DistilHuBERT: reshape rule": (DISTIL, reshape_rule),
    "MMS: no adapter": (MMS, adapter(lambda self, x: x)),
    "MMS: adapter instead of what it is added to": (
        MMS,
        adapter(lambda self, x: self.linear_2(F.relu(self.linear_1(self.norm(x))))),
    ),
    "MMS: adapter without norm": (MMS, adapter(lambda self, x: x + self.linear_2(F.relu(self.linear_1(x))))),
    "MMS: adapter with GELU": (MMS, adapter(lambda self, x: x + self.linear_2(F.gelu(self.linear_1(self.norm(x)))))),
    "MMS: adapters swapped": (MMS, swapped(f"{LAYER}.adapter_layer", "encoder.layers.1.adapter_layer")),
    "WavLM: no position bias": (WAVLM, bias_changed(torch.zeros_like)),
    "WavLM: bias of key and query exchanged": (WAVLM, bias_changed(lambda bias: bias.transpose(1, 2))),
    "WavLM: one head's bias for all": (WAVLM, bias_changed(lambda bias: bias[:1].expand_as(bias))),
    "WavLM: gate lost": (WAVLM, gate_lost),
    "WavLM: bias in the first block alone": (WAVLM, first_block_alone_is_biased),
    "WavLM: gate's constant forgotten": (
        WAVLM,
        lambda model, patch: model.encoder.layers[0].attention.gru_rel_pos_const.data.fill_(1.0),
    ),
    "WavLM: distances not logarithmic": (
        WAVLM_PRE,
        buckets(lambda d, n, far: d.abs().clamp(max=n // 2 - 1) + n // 2 * (d > 0)),
    ),
    "WavLM: another largest distance": (WAVLM_PRE, buckets(lambda d, n, far: ORIGINAL_BUCKETS(d, n, 2 * far))),
    "WavLM: both directions in one bucket": (WAVLM, buckets(lambda d, n, far: ORIGINAL_BUCKETS(-d.abs(), n, far))),
    "WavLM: padding mask lost beside the bias": (WAVLM, sdpa(bias_without_padding)),
    "UniSpeech-SAT: length rule": (
        SAT,
        lambda model, patch: patch.setattr(
            lengths.Valid,
            "reshaped_padding_mask",
            lambda self, size, total: self.after(model.kernels_and_strides).padding_mask(total),
        ),
    ),
    "UniSpeech: eps of fairseq": (UNISPEECH, set_class(_speech_encoder, "normalise_waveforms", fairseq_eps)),
    "Hugging Face base: mask that its processor does not make": (HF_NO_MASK, masked_all_the_same),
    "Conformer: GELU instead of swish": (RELATIVE, gelu_for_swish),
    "Conformer: feed-forward layers not by halves": (
        RELATIVE,
        set_class(conformer.ConformerLayer, "forward", whole_feed_forward),
    ),
    "Conformer: convolution without padding mask": (
        RELATIVE,
        shared_by_conformer(lambda padded, exact, allowed, positions, outside: (allowed, positions, None)),
    ),
    "Conformer: padding mask that the references do not have": (
        ROTARY,
        shared_by_conformer(
            lambda padded, exact, allowed, positions, outside: (
                allowed,
                positions,
                None if padded is None else padded[:, :, None],
            )
        ),
    ),
    "Conformer: attention without padding mask": (
        RELATIVE,
        shared_by_conformer(lambda padded, exact, allowed, positions, outside: (None, positions, outside)),
    ),
    "Conformer: positional convolution used": (
        ROTARY,
        set_class(conformer.ConformerEncoder, "add_positions", transformer.TransformerEncoder.add_positions),
    ),
    "Conformer: eps of the batch norm": (ROTARY, eps(f"{LAYER}.conv_module.batch_norm", 1e-3)),
    "Conformer: norm of a block missing": (ROTARY, replaced(f"{LAYER}.final_layer_norm", lambda x: x)),
    "Conformer: norm of the encoder on the other side": (
        "conformer_post_norm_usual",
        set_class(transformer.PostNormEncoder, "enter", lambda self, x: x),
    ),
    "Conformer: distances the other way round": (
        RELATIVE,
        set_class(conformer, "by_key", lambda scores: ORIGINAL_BY_KEY(scores.flip(3))),
    ),
    "Conformer: distances off by one": (
        RELATIVE,
        set_class(conformer, "by_key", lambda scores: ORIGINAL_BY_KEY(scores.roll(1, 3))),
    ),
    "Conformer: biases of content and position exchanged": (RELATIVE, biases_exchanged),
    "Conformer: position bias not scaled": (
        RELATIVE,
        set_class(conformer, "by_key", lambda scores: ORIGINAL_BY_KEY(scores) * 8**0.5),
    ),
    "Conformer: rotation after the projection": (ROTARY, set_class(conformer.RotaryAttention, "forward", rotated_late)),
    "Conformer: values rotated": (ROTARY, set_class(conformer.RotaryAttention, "forward", rotated_values)),
    "Conformer: frequencies of the configuration": (ROTARY, standard_frequencies),
}


@pytest.mark.parametrize("bug", CANARIES)
def test_planted_bug_is_caught(bug: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, plant = CANARIES[bug]
    case = Case.read(name)
    checkpoint = case.checkpoint(tmp_path)
    model = zoo.load(checkpoint)
    plant(model, monkeypatch)
    failures = compare(case, model, case.names(checkpoint)).failures
    assert failures, f"the golden comparison does not notice: {bug}"
