"""The largest coefficients of each location: which atoms a sparse code has."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from lit_robust.backward import SurrogateLayer, replace_gradient
from lit_robust.errors import UserError

_BITS = {
    torch.float64: torch.int64,
    torch.float32: torch.int32,
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
}
_TIMES_T = re.compile(r"top\((\d+)T\)")


class TopT(SurrogateLayer):
    """Keeps the T coefficients of largest magnitude at each location (dissertation, section 4.2.2).

    Exactly T are kept: of equal magnitudes those of the first atoms.

    Its backward passes: `exact`, where the gradient goes to the T kept coefficients; `identity`, where it goes to all;
    and `top(U)`, where it goes to the U ≥ T largest, also written as `top(2T)`. U = 2T was the strongest in the
    dissertation's appendix B; U is bounded by the number of atoms.

    Args:
        t: Coefficients that are kept, T.
        backward: Backward pass in force: exact, identity or top(U).

    Raises:
        UserError: If T is below 1, or U below T or no whole number.
    """

    def __init__(self, t: int, *, backward: str | None = None) -> None:
        if t < 1:
            raise UserError(f"expected TopT to keep at least 1 coefficient, got t = {t}; give top: null to keep all")
        self.t = t
        self.offered = ("exact", "identity", *(f"top({factor * t})" for factor in (2, 5, 10)))
        super().__init__(backward=backward)

    @property
    def backward_pass(self) -> str:
        """The backward pass in force."""
        return self._backward_pass

    @backward_pass.setter
    def backward_pass(self, name: str) -> None:
        """Sets it, unless U is no number of coefficients."""
        before = self.__dict__.get("_backward_pass")
        self._set(name)
        if self.kind == "top" and (self.number < self.t or self.number % 1):
            if before is not None:
                self._set(before)
            raise UserError(
                f"top(U) passes the gradient to the U largest coefficients, among them the {self.t} that are kept: "
                f"expected a whole number U of at least {self.t}, got {name}; take top({2 * self.t})"
            )

    def read(self, name: str) -> tuple[str, float | None]:
        """Kind and number of a backward pass; `top(2T)` is top with 2T.

        Raises:
            UserError: If the layer has no such backward pass.
        """
        times = _TIMES_T.fullmatch(name)
        return ("top", float(times[1]) * self.t) if times else super().read(name)

    def forward(self, a: Tensor) -> Tensor:
        """Coefficients through which values or gradients go, at each location: the T kept ones first.

        Args:
            a: Coefficients, (..., L), in any order of the locations.

        Returns:
            Positions in `a.flatten()`, a row a location, (rows, S) int64, where S is T, U or L by the backward pass.
            The first T of a row are ascending, and so are the others.

        Raises:
            UserError: If there are fewer than T atoms.
        """
        atoms = a.shape[-1]
        if self.t > atoms:
            raise UserError(f"TopT cannot keep {self.t} of {atoms} coefficients; set t to at most {atoms}")
        size = {"exact": self.t, "identity": atoms, "top": min(int(self.number), atoms)}[self.kind]
        rows = a.detach().flatten(0, -2).abs()
        # The bits of floats that are not negative, read as integers, are in the same order, and quicker to compare.
        rows = rows.view(_BITS[rows.dtype])
        kept = _largest(rows, self.t)
        if size == self.t:
            return kept
        dropped = torch.ones_like(rows, dtype=torch.bool)
        if size < atoms:
            dropped.fill_(False).view(-1)[_largest(rows, size)] = True
        dropped.view(-1)[kept] = False
        return torch.cat([kept, dropped.view(-1).nonzero().view(len(rows), size - self.t)], dim=1)

    def gate(self, values: Tensor) -> Tensor:
        """Sets what is not kept to 0 in the forward pass; the gradient goes to all.

        Args:
            values: The coefficients at the positions that `forward` has given, (rows, S).
        """
        if values.shape[1] == self.t:
            return values
        hard = values.detach().clone()
        hard[:, self.t :] = 0
        return replace_gradient(hard, values)

    def extra_repr(self) -> str:
        """The settings, for `print(model)`."""
        return f"t={self.t}, backward={self.backward_pass!r}"

    def _set(self, name: str) -> None:
        SurrogateLayer.__dict__["backward_pass"].fset(self, name)  # the setter that this class overrides


def _largest(rows: Tensor, t: int) -> Tensor:
    """Positions in `rows.flatten()` of the t largest of each row, ascending, (rows, t); of equal ones the first."""
    least = rows.topk(t, dim=1, sorted=False).values.amin(1, keepdim=True)
    found = (rows >= least).view(-1).nonzero()
    if len(found) > t * len(rows):  # a row has several that equal the least, and no room for all
        above, equal = rows > least, rows == least
        room = t - above.sum(1, keepdim=True)
        found = (above | (equal & (equal.cumsum(1) <= room))).view(-1).nonzero()
    return found.view(len(rows), t)
