"""The sparse encoder with the cosine basis in place of a learned dictionary."""

from __future__ import annotations

from collections.abc import Sequence

from lit_robust.errors import UserError
from lit_robust.nn.code_activation import CodeActivation
from lit_robust.nn.code_dropout import CodeDropout
from lit_robust.nn.dct_atoms import dct_atoms
from lit_robust.nn.sparse_encoder import SparseEncoder
from lit_robust.nn.top_t import TopT


class DCTEncoder(SparseEncoder):
    """`SparseEncoder` with the discrete cosine basis of patches: no dictionary has to be learned (appendix B).

    Args:
        patch: Side of the patches in pixels; there are C·patch² atoms, 48 for 4 x 4 pixels in colour.
        stride: As for `SparseEncoder`, like all others.
        top: How many coefficients stay; None for all.
        dropout: Which of them become 0; None for none.
        activation: What becomes of them; None leaves coefficients as they are.
        signed: Whether coefficients keep their sign.
        in_channels: Channels of the images; None follows the data in a config, and is 3 outside one.
        image_shape: (C, H, W) of the images, to be checked at once; None follows the data in a config.

    Raises:
        UserError: If `patch` is below 1, or as for `SparseEncoder`.
    """

    def __init__(
        self,
        *,
        patch: int = 4,
        stride: int = 2,
        top: TopT | None = None,
        dropout: CodeDropout | None = None,
        activation: CodeActivation | None = None,
        signed: bool = True,
        in_channels: int | None = None,
        image_shape: Sequence[int] | None = None,
    ) -> None:
        if patch < 1:
            raise UserError(f"expected patch of DCTEncoder to be at least 1 pixel, got {patch}")
        super().__init__(
            dct_atoms(3 if in_channels is None else in_channels, patch),
            stride=stride,
            top=top,
            dropout=dropout,
            activation=activation,
            signed=signed,
            image_shape=image_shape,
        )
