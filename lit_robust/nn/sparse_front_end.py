"""The sparse coding front end: images to sparse codes, and back to images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lit_robust.backward import SurrogateLayer, replace_gradient
from lit_robust.errors import UserError
from lit_robust.nn.sparse_encoder import SparseEncoder

_AT_ONCE = 64  # images that go through the decoder together: their codes are large


class SparseFrontEnd(SurrogateLayer):
    """An encoder with a fixed dictionary and a decoder that trains (dissertation, section 4.2).

    Its backward passes: `composed`, through encoder and decoder, each with its own; and `identity`, where the gradient
    of the image is that of the decoded image.

    Args:
        encoder: Images to sparse codes.
        decoder: Codes (N, L, H', W') to images (N, C, H, W) in [0, 1], of the shape that came in.
        backward: Backward pass in force: composed or identity.

    Raises:
        UserError: In a forward pass with `identity`, if the decoder gives images of another shape.
    """

    offered = ("composed", "identity")
    opaque = frozenset({"identity"})

    def __init__(self, encoder: SparseEncoder, decoder: nn.Module, *, backward: str | None = None) -> None:
        super().__init__(backward=backward)
        self.encoder = encoder
        self.decoder = decoder

    def forward(self, x: Tensor) -> Tensor:
        """Decoded images (N, C, H, W) in [0, 1].

        Args:
            x: Images (N, C, H, W) in [0, 1].
        """
        return self.passes(x, 1)

    def passes(self, x: Tensor, n: int) -> Tensor:
        """Decoded images of n forward passes in a row; see `SparseEncoder.passes`.

        Args:
            x: Images (N, C, H, W) in [0, 1].
            n: Number of passes.

        Returns:
            The images of the first pass, then of the second, and so on, (n·N, C, H, W).
        """
        if self.kind == "composed":
            return self._decoded(x, n)
        with torch.no_grad():
            hard = self._decoded(x, n)
        if hard.shape[1:] != x.shape[1:]:
            raise UserError(
                "the backward pass `identity` needs a decoder that gives images of the shape that came in, "
                f"{tuple(x.shape[1:])}, got {tuple(hard.shape[1:])}; choose `composed`"
            )
        return replace_gradient(hard, x.repeat(n, 1, 1, 1))

    def extra_repr(self) -> str:
        """The settings, for `print(model)`."""
        return f"backward={self.backward_pass!r}"

    def _decoded(self, x: Tensor, n: int) -> Tensor:
        pieces = self.encoder.pieces(x, n, at_once=max(1, _AT_ONCE // len(x)))
        images = [self.decoder(codes) for codes in pieces]
        return images[0] if len(images) == 1 else torch.cat(images)
