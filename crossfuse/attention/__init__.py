"""The one attention kernel: a fused output, and exactly the part of the map that is asked for.

    S = Q Kᵀ · scale + bias        (N_q x N_k), scale = 1 / sqrt(D) unless given
    A = softmax over keys (S)      every row sums to 1; masked keys get exactly 0
    O = A V                        (Vaswani et al. 2017, eq. 1, per head)

The output comes from PyTorch's fused kernel, which never forms A. A :class:`Want` says what of A
to return beside it: nothing, everything, chosen query rows, or the mass on groups of keys, for all
heads, chosen heads, or their mean. Only ``Want.everything()`` materialises N_q x N_k. Maps are
returned in float32 and are computed in float32 also for half-precision inputs.

Shapes throughout: query (B, H, N_q, D), key (B, H, N_k, D), value (B, H, N_k, D_v).
"""

from crossfuse.attention.gradient import gradient_weighted_map, map_gradient
from crossfuse.attention.kernel import attend, map_rows, merge_heads, split_heads
from crossfuse.attention.want import NOTHING, Attended, LayerMap, Want

__all__ = [
    "NOTHING",
    "Attended",
    "LayerMap",
    "Want",
    "attend",
    "gradient_weighted_map",
    "map_gradient",
    "map_rows",
    "merge_heads",
    "split_heads",
]
