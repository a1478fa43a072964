"""An activation that is zero around zero: what polarization is compared with."""

from __future__ import annotations

from fractions import Fraction

import torch.nn.functional as F
from torch import Tensor

from lit_robust import radius
from lit_robust.backward import SurrogateLayer, replace_gradient
from lit_robust.errors import UserError


class DeadZone(SurrogateLayer):
    """0 where |z| ≤ eps, else z (dissertation, Eq. 4.1, in units of the filter's L1 norm).

    Behind `L1NormConv2d` it stops what a perturbation of at most eps a pixel does to a silent filter, and lets through
    what rides on an active one (Fig. 4.1).

    Backward passes: `exact`, the identity outside of the zone and zero in it; `identity` everywhere.

    Args:
        eps: Half width of the zone: a number of at least 0, or text such as `8/255`.
        backward: As for `SurrogateLayer`.

    Raises:
        UserError: If `eps` is not a number of at least 0, or there is no such backward pass.
    """

    offered = ("exact", "identity")

    def __init__(self, eps: Fraction | float | str, *, backward: str | None = None) -> None:
        super().__init__(backward=backward)
        self.eps = float(radius.parse(eps, name="eps"))
        if self.eps < 0:
            raise UserError(f"expected eps of the dead zone to be 0 or more, got {eps}")

    def forward(self, z: Tensor) -> Tensor:
        """Activations with zeros, of the same shape."""
        outside = F.hardshrink(z, self.eps)
        return replace_gradient(outside, z) if self.kind == "identity" else outside

    def extra_repr(self) -> str:
        """The settings, for `print(model)`."""
        return f"eps={self.eps:g}, backward={self.backward_pass!r}"
