"""Self-attention. Shapes: B batch, T frames, D width, H heads, K head width."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.layers._init import normal_


class SelfAttention(nn.Module):
    """Multi-head self-attention with biases, scaled by 1 / sqrt(K)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def position_bias(self, frames: int) -> Tensor | None:
        """What depends on the distance of two frames alone, made once for all blocks; this attention has none."""
        return None

    def forward(self, x: Tensor, allowed: Tensor | None, position_bias: Tensor | None) -> Tensor:
        """Attend within each utterance.

        Args:
            x: (B, T, D).
            allowed: boolean (B, 1, 1, T), True where a key may be looked at; None: everywhere.
            position_bias: what `position_bias` of the first block gave.

        Returns:
            (B, T, D).
        """
        return self.attend(x, allowed)

    def attend(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Attention with a boolean or additive mask, broadcastable to (B, H, T, T)."""
        q, k, v = (
            proj(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=self.dropout if self.training else 0.0)
        # Heads side by side. A view would do, but an exported graph would then hold one kernel's memory layout.
        out: Tensor = self.out_proj(torch.cat(y.unbind(1), 2))
        return out


class DistanceTable(nn.Embedding):
    """A value for each distance bucket and head."""

    def reset_parameters(self) -> None:
        """Standard normal."""
        normal_(self.weight, std=1.0)


class GatedRelativeAttention(SelfAttention):
    """Self-attention with WavLM's gated relative position bias.

    A learned bias per head and distance bucket, held by the first block alone, is scaled in every block and for every
    query by a gate made from the block's input. WavLM, https://arxiv.org/abs/2110.13900, section 3.1.
    Source for the arithmetic: transformers `modeling_wavlm.py` (Apache-2.0), torchaudio `wavlm_attention.py` (BSD).

    Args:
        width: D.
        heads: H.
        dropout: of the attention weights.
        buckets: distance buckets, both directions together.
        max_distance: frames from which on all distances share a bucket.
        first: whether this is the first block, which holds the table.
    """

    def __init__(self, width: int, heads: int, dropout: float, buckets: int, max_distance: int, first: bool) -> None:
        super().__init__(width, heads, dropout)
        self.buckets, self.max_distance = buckets, max_distance
        self.gru_rel_pos_const = nn.Parameter(torch.ones(1, heads, 1, 1))
        self.gru_rel_pos_linear = nn.Linear(width // heads, 8)
        if first:
            self.rel_attn_embed = DistanceTable(buckets, heads)

    def position_bias(self, frames: int) -> Tensor:
        """(H, T, T): the bias of each query (row) and key (column) before it is gated."""
        weight = self.rel_attn_embed.weight
        distances = torch.arange(1 - frames, frames, device=weight.device)  # key minus query
        table = weight[distance_buckets(distances, self.buckets, self.max_distance)]
        position = torch.arange(frames, device=weight.device)
        return table[position[None, :] - position[:, None] + frames - 1].permute(2, 0, 1)

    def forward(self, x: Tensor, allowed: Tensor | None, position_bias: Tensor | None) -> Tensor:
        """As `SelfAttention.forward`, with the bias of the first block (H, T, T)."""
        if position_bias is None:
            raise RuntimeError("gated relative attention needs the first block's position bias")
        per_head = x.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)  # (B, H, T, K)
        eight: Tensor = self.gru_rel_pos_linear(per_head)
        a, b = torch.sigmoid(eight.reshape(*eight.shape[:3], 2, 4).sum(4)).chunk(2, dim=3)
        gate = a * (b * self.gru_rel_pos_const - 1.0) + 2.0
        mask = (gate * position_bias).to(x.dtype)
        if allowed is not None:
            mask = mask.masked_fill(~allowed, -math.inf)
        return self.attend(x, mask)


def distance_buckets(distances: Tensor, buckets: int, max_distance: int) -> Tensor:
    """Bucket of each signed distance (key minus query), as in T5 (https://arxiv.org/abs/1910.10683).

    Half of the buckets are for each direction; of those, half are for one distance each, and the rest grow
    logarithmically up to `max_distance`, beyond which all share the last one.
    """
    half = buckets // 2
    exact = half // 2
    far = distances.abs()
    # The order of these operations decides where the buckets end: it is that of the released models' own code.
    share = torch.log(far.clamp(min=1).float() / exact) / math.log(max_distance / exact)
    logarithmic = exact + (share * (half - exact)).long()
    bucket = torch.where(far < exact, far, logarithmic.clamp(max=half - 1))
    return bucket + half * (distances > 0)
