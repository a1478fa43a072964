"""Patches of an image as sparse codes over a fixed dictionary."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_robust.errors import UserError
from lit_robust.nn.code_activation import CodeActivation
from lit_robust.nn.code_dropout import CodeDropout
from lit_robust.nn.dictionary import PatchDictionary
from lit_robust.nn.top_t import TopT


class SparseEncoder(nn.Module):
    """Projection on the atoms, the T largest coefficients, dropout, activation (dissertation, section 4.2.2).

    Each of the last three may be left out. The code of all patches is a dense tensor, but only the entries that stay
    are computed. A random encoder draws many codes of an image for little more than the price of the dense tensors,
    since projection and choice of the coefficients run once: `passes`, `pieces`.

    Args:
        dictionary: Atoms of norm 1, (L, C, k, k), or the place of a dictionary: a file, or the folder of a run that
            learned it.
        stride: Distance of neighbouring patches in pixels.
        top: How many coefficients stay; None for all.
        dropout: Which of them become 0; None for none.
        activation: What becomes of them; None leaves coefficients as they are.
        signed: Whether coefficients keep their sign. The published code of Tables 4.2 to 4.4 takes absolute values.
        trainable: Whether the atoms train, as an ablation; they do not stay of norm 1 then.
        patch: Side k that the dictionary must have; None for any, as for the following three.
        atoms: Number of atoms L that it must have.
        alpha: Sparsity that it must have been learned with.
        in_channels: Channels of the images; None follows the data in a config.
        image_shape: (C, H, W) of the images, to be checked at once; None follows the data in a config.

    Attributes:
        dictionary: The atoms, (L, C, k, k), in the network's state.

    Raises:
        UserError: If there is no such dictionary, it has other settings, T is above the number of atoms, the patches do
            not cover the image, or are larger than it.
    """

    dictionary: Tensor

    def __init__(
        self,
        dictionary: str | Tensor,
        *,
        stride: int,
        top: TopT | None = None,
        dropout: CodeDropout | None = None,
        activation: CodeActivation | None = None,
        signed: bool = True,
        trainable: bool = False,
        patch: int | None = None,
        atoms: int | None = None,
        alpha: float | None = None,
        in_channels: int | None = None,
        image_shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if stride < 1:
            raise UserError(f"expected stride of SparseEncoder to be at least 1, got {stride}")
        given = isinstance(dictionary, Tensor)
        known = PatchDictionary.of(dictionary) if isinstance(dictionary, Tensor) else PatchDictionary.load(dictionary)
        known.require("given" if given else dictionary, patch=patch, atoms=atoms, channels=in_channels, alpha=alpha)
        if top is not None and top.t > len(known.atoms):
            raise UserError(
                f"TopT cannot keep {top.t} of {len(known.atoms)} coefficients; set top.t to at most {len(known.atoms)}"
            )
        value = known.atoms.detach().clone()
        if trainable:
            self.dictionary = nn.Parameter(value)
        else:
            self.register_buffer("dictionary", value)
        self.stride, self.signed = stride, signed
        self.top, self.dropout, self.activation = top, dropout, activation
        if image_shape is not None:
            self.grid(image_shape)

    @property
    def norms(self) -> Tensor:
        """L1 norms of the atoms, (L,)."""
        return self.dictionary.detach().abs().sum((1, 2, 3))

    def grid(self, image_shape: Sequence[int]) -> tuple[int, int]:
        """Rows and columns of patches in an image.

        Args:
            image_shape: (C, H, W).

        Raises:
            UserError: If the image has other channels than the atoms, or the patches do not cover it.
        """
        (_, channels, k, _), (own, *sides) = self.dictionary.shape, image_shape
        if own != channels:
            raise UserError(f"the dictionary's atoms have {channels} channels, the images {own}; learn another one")
        for what, side in zip(("rows", "columns"), sides, strict=True):
            if k > side:
                raise UserError(f"patches of {k} x {k} pixels are larger than images of {sides[0]} x {sides[1]}")
            if missed := _uncovered(side, k, self.stride):
                raise UserError(
                    f"patches of {k} x {k} pixels with stride {self.stride} leave {what} {missed} of images of "
                    f"{sides[0]} x {sides[1]} uncovered; set a stride that divides {side - k} and is at most {k}"
                )
        return (sides[0] - k) // self.stride + 1, (sides[1] - k) // self.stride + 1

    def forward(self, x: Tensor) -> Tensor:
        """Codes (N, L, H', W'), channels last in memory.

        Args:
            x: Images (N, C, H, W).
        """
        return self.passes(x, 1)

    def passes(self, x: Tensor, n: int) -> Tensor:
        """Codes of n forward passes in a row, which draw the noise that they would draw one by one.

        Args:
            x: Images (N, C, H, W).
            n: Number of passes.

        Returns:
            The codes of all images in the first pass, then in the second, and so on, (n·N, L, H', W').
        """
        (codes,) = self.pieces(x, n, n)
        return codes

    def pieces(self, x: Tensor, n: int, at_once: int = 1) -> Iterator[Tensor]:
        """The codes of `passes`, a few passes after the other: the dense codes of all take much memory.

        Args:
            x: Images (N, C, H, W).
            n: Number of passes.
            at_once: Passes a piece.

        Yields:
            Codes (at_once·N, L, H', W'); of the last piece perhaps fewer.
        """
        a = self.coefficients(x)
        counts = [min(at_once, n - start) for start in range(0, n, at_once)]
        if self.top is None and self.dropout is None:
            code = a if self.activation is None else self.activation(a, self.norms)
            yield from (code.permute(0, 3, 1, 2).repeat(count, 1, 1, 1) for count in counts)
            return
        chosen = torch.arange(a.numel(), device=a.device).view(-1, a.shape[3]) if self.top is None else self.top(a)
        values = a.flatten().index_select(0, chosen.flatten()).view(chosen.shape)
        if self.top is not None:
            values = self.top.gate(values)
        yield from (self._codes(values, chosen, a.shape, count) for count in counts)

    def coefficients(self, x: Tensor) -> Tensor:
        """Inner products of patches and atoms, (N, H', W', L), contiguous; without the sign if not `signed`."""
        height, width = self.grid(x.shape[1:])
        # A product over patches: it has the atoms last in memory, as the choice of the largest needs them.
        patches = F.unfold(x, self.dictionary.shape[2:], stride=self.stride).transpose(1, 2)
        a = (patches @ self.dictionary.flatten(1).T).view(len(x), height, width, len(self.dictionary))
        return a if self.signed else a.abs()

    def extra_repr(self) -> str:
        """The settings, for `print(model)`."""
        atoms, channels, k, _ = self.dictionary.shape
        return f"{atoms} atoms of {channels} x {k} x {k}, stride={self.stride}, signed={self.signed}"

    def _codes(self, values: Tensor, chosen: Tensor, shape: Sequence[int], n: int) -> Tensor:
        """Dense codes of n draws, (n·N, L, H', W'), from coefficients and their positions, both (N·H'·W', S)."""
        size, atoms = math.prod(shape), shape[3]
        drawn = [self._drawn(values, chosen, shape[0]) for _ in range(n)]
        entries = torch.cat([kept for kept, _ in drawn])
        place = torch.cat([at + draw * size for draw, (_, at) in enumerate(drawn)])
        if self.activation is not None:
            entries = self.activation(entries, self.norms[place % atoms])
        codes = values.new_zeros(n * size).scatter_(0, place, entries)
        return codes.view(n * shape[0], *shape[1:]).permute(0, 3, 1, 2)

    def _drawn(self, values: Tensor, chosen: Tensor, images: int) -> tuple[Tensor, Tensor]:
        """The coefficients that dropout keeps, or may give a gradient to, and their positions, both (M,)."""
        if self.dropout is None:
            return values.flatten(), chosen.flatten()
        # Noise goes slot by slot, so that it does not depend on how many slots a backward pass needs.
        slots = values.view(images, -1, values.shape[1]).transpose(1, 2)  # (N, S, H'·W')
        if self.dropout.kind == "identity":
            return self.dropout(slots).transpose(1, 2).flatten(), chosen.flatten()
        size, places = slots[0].numel(), slots.shape[2]
        drawn = self.dropout.survivors(slots)
        image, rest = drawn // size, drawn % size
        kept = (image * places + rest % places) * slots.shape[1] + rest // places
        return values.flatten().index_select(0, kept), chosen.flatten()[kept]


def _uncovered(side: int, k: int, stride: int) -> str:
    """The pixels of a side that no patch covers, as text; empty if there are none."""
    covered = {start + i for start in range(0, side - k + 1, stride) for i in range(k)}
    missed = [i for i in range(side) if i not in covered]
    if len(missed) > 6:
        return f"{', '.join(map(str, missed[:5]))}, ..., {missed[-1]}"
    return ", ".join(map(str, missed))
