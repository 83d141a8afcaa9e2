"""Self-attention. Shapes: B batch, T frames, D width, H heads, K head width."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class SelfAttention(nn.Module):
    """Multi-head self-attention with biases, scaled by 1 / sqrt(K)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Attend within each utterance.

        Args:
            x: (B, T, D).
            mask: boolean, broadcastable to (B, H, T, T), True where a query may look at a key; None: everywhere.

        Returns:
            (B, T, D).
        """
        q, k, v = (
            proj(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=self.dropout if self.training else 0.0)
        out: Tensor = self.out_proj(y.transpose(1, 2).flatten(2))
        return out
