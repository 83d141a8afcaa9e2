"""Downstream heads: what SUPERB trains on frozen features, and what s3prl trains on HEAR's folders.

A head is made by `Head(input_size, output_size, **options)` and called with features x (B, T, D) and their valid
frames x_len (B,); it returns (y, y_len): one row of y a frame, or one an utterance with y_len 1. What stands past x_len
never reaches an output that counts. Any module of this form is a head; two class attributes, False unless given, say
what else may be done with one:

* `pools`: it gives the same for the mean over an utterance's valid frames as for those frames.
* `batched`: `torch.func.vmap` maps it over stacked parameters: no recurrent layer, no random draw.

Unless it says otherwise, a layer is initialised as torch does it.

Shapes: B batch, T frames, D input size, V output size.

Sources: Yang et al., SUPERB, 2021 (arXiv 2105.01051); s3prl 0.4.18 (Apache-2.0),
`downstream/{model.py,asr,sv_voxceleb1,diarization,specaug.py}` for v0.3, `nn/{linear,rnn,specaug,speaker_model}.py`
for v0.4, `nn/hear.py`.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence, pad_sequence

from zoo.errors import InputError

__all__ = ["BLSTM", "Diarizer", "FrameLinear", "FrameMLP", "UtteranceLinear", "UtteranceMLP", "XVector", "spec_augment"]

# SpecAugment of SUPERB, in frames and features; of widths, the bound that v0.3 never reaches and v0.4 does.
WARP = 5
FEATURE_MASKS, FEATURE_WIDTH = 4, 50
TIME_MASKS, TIME_WIDTH = 2, 40
# (context in frames, dilation) of the x-vector's layers, and the frames that they use up.
CONTEXTS = ((5, 1), (3, 2), (3, 3), (1, 1), (1, 1))
CONTEXT_FRAMES = sum((context - 1) * dilation for context, dilation in CONTEXTS)


class FrameLinear(nn.Module):
    """Two linear layers with nothing between them, on every frame: PR.

    y is (B, T, V).
    """

    pools = False
    batched = True

    def __init__(self, input_size: int, output_size: int, *, hidden_size: int = 256) -> None:
        super().__init__()
        self.hidden = nn.Linear(input_size, hidden_size)
        self.output = nn.Linear(hidden_size, output_size)

    def forward(self, x: Tensor, x_len: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (B, T, V) of features (B, T, D)."""
        return self.output(self.hidden(x)), x_len


class UtteranceLinear(FrameLinear):
    """The same two layers with a mean over the valid frames of each utterance between them: KS, SID, IC, ER.

    y is (B, V). The mean is taken first: it goes through a linear layer unchanged, which then sees one frame only.
    """

    pools = True

    def forward(self, x: Tensor, x_len: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (B, V) of features (B, T, D); NaN for an utterance without a valid frame."""
        return super().forward(_mean(x, x_len), torch.ones_like(x_len))


class FrameMLP(nn.Module):
    """HEAR's predictor on every frame: linear layers with batch norm, dropout and a ReLU behind each, and another one.

    Weights are Xavier uniform, with the gain of a ReLU behind one. Batches are normalised over their valid frames; the
    reference takes the padding in.

    y is (B, T, V), zero past the valid frames.

    Args:
        input_size: D.
        output_size: V.
        hidden_size: width of the hidden layers.
        layers: number of hidden layers.
        dropout: probability, in training.
    """

    pools = False
    batched = False

    def __init__(
        self, input_size: int, output_size: int, *, hidden_size: int = 1024, layers: int = 2, dropout: float = 0.1
    ) -> None:
        super().__init__()
        widths = [input_size] + [hidden_size] * layers
        hidden: list[nn.Module] = []
        for before, after in pairwise(widths):
            hidden += [nn.Linear(before, after), _RowNorm(after), nn.Dropout(dropout), nn.ReLU()]
        self.rows = nn.Sequential(*hidden, nn.Linear(widths[-1], output_size))
        linear = [module for module in self.rows if isinstance(module, nn.Linear)]
        for module in linear:
            nn.init.xavier_uniform_(module.weight, nn.init.calculate_gain("linear" if module is linear[0] else "relu"))

    def forward(self, x: Tensor, x_len: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (B, T, V) of features (B, T, D)."""
        valid = torch.arange(x.shape[1], device=x.device) < x_len[:, None]
        rows = self.rows(x[valid])
        return rows.new_zeros(*valid.shape, rows.shape[1]).index_put((valid,), rows), x_len


class UtteranceMLP(FrameMLP):
    """The same of the mean over the valid frames of each utterance. y is (B, V)."""

    pools = True

    def forward(self, x: Tensor, x_len: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (B, V) of features (B, T, D); NaN for an utterance without a valid frame."""
        return self.rows(_mean(x, x_len)), torch.ones_like(x_len)


class _RowNorm(nn.BatchNorm1d):
    """Batch norm of rows (N, D); in training, a single row, which has no variance, is normalised as in evaluation."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and len(x) < 2:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)


class BLSTM(nn.Module):
    """SpecAugment, linear layer, bidirectional LSTMs each with dropout behind it, linear layer: ASR, SF.

    y is (B, T, V); no state goes through padding.

    Args:
        input_size: D.
        output_size: V.
        projection_size: width of the first linear layer.
        hidden_size: width of each direction.
        layers: number of LSTMs.
        dropout: probability, in training.
        spec_augment: augment the features in training.
        inclusive: the widest masks are those of v0.4 instead of v0.3, see `spec_augment`.
    """

    pools = False
    batched = False

    def __init__(
        self,
        input_size: int,
        output_size: int,
        *,
        projection_size: int = 1024,
        hidden_size: int = 1024,
        layers: int = 2,
        dropout: float = 0.2,
        spec_augment: bool = True,
        inclusive: bool = False,
    ) -> None:
        super().__init__()
        self.spec_augment = spec_augment
        self.inclusive = inclusive
        self.projection = nn.Linear(input_size, projection_size)
        widths = [projection_size] + [2 * hidden_size] * layers
        self.layers = nn.ModuleList(
            nn.LSTM(width, hidden_size, batch_first=True, bidirectional=True) for width in widths[:-1]
        )
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(widths[-1], output_size)

    def forward(self, x: Tensor, x_len: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (B, T, V) of features (B, T, D); of every utterance one frame must be valid."""
        frames = x.shape[1]
        if self.training and self.spec_augment:
            x = spec_augment(x, x_len, inclusive=self.inclusive)
        packed = pack_padded_sequence(self.projection(x), x_len.cpu(), batch_first=True, enforce_sorted=False)
        for layer in self.layers:
            packed, _ = layer(packed)
            packed = PackedSequence(self.dropout(packed.data), *packed[1:])
        hidden, _ = pad_packed_sequence(packed, batch_first=True, total_length=frames)
        return self.output(hidden), x_len


class Diarizer(nn.Module):
    """One LSTM that runs forward, and a linear layer: SD. y is (B, T, V), V speakers, logits of who speaks."""

    pools = False
    batched = False

    def __init__(self, input_size: int, output_size: int, *, hidden_size: int = 512, layers: int = 1) -> None:
        super().__init__()
        self.lstm = nn.LSTM(input_size, hidden_size, layers, batch_first=True)
        self.output = nn.Linear(hidden_size, output_size)

    def forward(self, x: Tensor, x_len: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, T, V) of features (B, T, D); padding comes last, so that no state goes through it."""
        return self.output(self.lstm(x)[0]), x_len


class XVector(nn.Module):
    """The x-vector of SUPERB's speaker verification, without batch norm or dropout: ASV.

    Linear layer; five time-delay layers, which use up 14 frames; mean and standard deviation over what is left; two
    linear layers. Each layer but the first is followed by a ReLU. `forward` gives what the loss is computed from,
    `embed` what trials are scored with: it leaves the last layer out.

    Args:
        input_size: D.
        output_size: V, width of both embeddings.
        hidden_size: width of the first layers.
        pooled_size: width of the last time-delay layer.
        pooling_extra_frame: pool over one frame more than is valid wherever the batch has it, as v0.3 does; that frame
            sees one frame of zeros. v0.4 does not.
    """

    pools = False
    batched = False

    def __init__(
        self,
        input_size: int,
        output_size: int = 512,
        *,
        hidden_size: int = 512,
        pooled_size: int = 1500,
        pooling_extra_frame: bool = True,
    ) -> None:
        super().__init__()
        self.pooling_extra_frame = pooling_extra_frame
        self.projection = nn.Linear(input_size, hidden_size)
        widths = [hidden_size] * len(CONTEXTS) + [pooled_size]
        self.frames = nn.Sequential(
            *(_TimeDelay(before, after, *context) for before, after, context in zip(widths, widths[1:], CONTEXTS))
        )
        self.embedding = nn.Linear(2 * pooled_size, output_size)
        self.output = nn.Linear(output_size, output_size)

    def forward(self, x: Tensor, x_len: Tensor) -> tuple[Tensor, Tensor]:
        """Training embeddings (B, V) of features (B, T, D).

        Raises:
            InputError: an utterance is too short.
        """
        return F.relu(self.output(self._segment(x, x_len))), torch.ones_like(x_len)

    def embed(self, x: Tensor, x_len: Tensor) -> Tensor:
        """Test embeddings (B, V) of features (B, T, D), of unit length.

        Raises:
            InputError: an utterance is too short.
        """
        return F.normalize(self._segment(x, x_len), dim=-1)

    def _segment(self, x: Tensor, x_len: Tensor) -> Tensor:
        lengths = [int(n) for n in x_len.tolist()]
        least = CONTEXT_FRAMES + 2  # which leave two, without which there is no standard deviation
        if min(lengths) < least:
            raise InputError(
                f"an x-vector needs at least {least} frames of every utterance and was given one of {min(lengths)}: "
                "leave such utterances out"
            )
        if self.pooling_extra_frame:
            lengths = [min(n + 1, max(lengths)) for n in lengths]
        x = self.frames(self.projection(_without_padding(x, x_len)))
        items = [item[: n - CONTEXT_FRAMES] for item, n in zip(x, lengths)]
        # Item by item: the gradient of torch's own standard deviation is defined where a unit is dead, and 0 there.
        pooled = torch.stack([torch.cat([item.mean(0), item.std(0)]) for item in items])
        return F.relu(self.embedding(pooled))


class _TimeDelay(nn.Linear):
    """Linear layer on some frames side by side, the earliest first, and a ReLU; (B, T, D) to (B, T', D')."""

    def __init__(self, input_size: int, output_size: int, context: int, dilation: int) -> None:
        super().__init__(context * input_size, output_size)
        self.context = context
        self.dilation = dilation

    def forward(self, x: Tensor) -> Tensor:
        frames = x.shape[1] - (self.context - 1) * self.dilation
        shifted = [x.narrow(1, k * self.dilation, frames) for k in range(self.context)]
        return F.relu(super().forward(torch.cat(shifted, dim=-1)))


def spec_augment(x: Tensor, x_len: Tensor, *, inclusive: bool) -> Tensor:
    """SpecAugment (arXiv 1904.08779) as SUPERB's ASR and SF train with it.

    Each utterance is stretched before a random frame and squeezed behind it, or the reverse; then 4 bands of features
    and 2 stretches of time are set to zero. A mask begins anywhere below the batch's longest length (or its width, for
    features) less the widest mask of the batch. Draws come from torch's generator of the CPU on any device, in s3prl's
    order.

    Args:
        x: (B, T, D) features.
        x_len: (B,) valid frames.
        inclusive: v0.4's widths, 0 to 50 features and 0 to 40 frames, instead of v0.3's, 0 to 49 and 0 to 39.

    Returns:
        (B, T', D), T' being the longest length; zero in the padding.
    """
    warped = pad_sequence([_warped(item[: int(n)]) for item, n in zip(x, x_len.tolist())], batch_first=True)
    items, frames, width = warped.shape
    features = _masks(items, width, FEATURE_MASKS, FEATURE_WIDTH + inclusive)[:, None, :]
    times = _masks(items, frames, TIME_MASKS, TIME_WIDTH + inclusive)[:, :, None]
    return warped.masked_fill((features | times).to(x.device), 0.0)


def _warped(x: Tensor) -> Tensor:
    """Features (T, D) with a random frame moved by up to 5 frames; shorter than 11 frames they stay as they are."""
    frames, width = x.shape
    if frames <= 2 * WARP:
        return x
    centre = int(torch.randint(WARP, frames - WARP, (1,)))
    target = int(torch.randint(centre - WARP, centre + WARP, (1,))) + 1
    parts = ((x[:centre], target), (x[centre:], frames - target))
    return torch.cat([F.interpolate(part[None, None], (size, width), mode="bicubic")[0, 0] for part, size in parts])


def _masks(items: int, size: int, count: int, bound: int) -> Tensor:
    """(items, size), True where one of `count` spans of each item lies, of widths below `bound`."""
    widths = torch.randint(0, bound, (items, count, 1))
    starts = torch.randint(0, max(1, size - int(widths.max())), (items, count, 1))
    position = torch.arange(size)
    return ((starts <= position) & (position < starts + widths)).any(1)


def _mean(x: Tensor, x_len: Tensor) -> Tensor:
    """(B, D), over the valid frames of features (B, T, D)."""
    return _without_padding(x, x_len).sum(1) / x_len[:, None]


def _without_padding(x: Tensor, x_len: Tensor) -> Tensor:
    """Features (B, T, D) with zeros past the valid frames, whatever stands there."""
    padding = torch.arange(x.shape[1], device=x.device) >= x_len[:, None]
    return x.masked_fill(padding[:, :, None], 0.0)
