"""The activation of a sparse code: large coefficients become plus or minus their atom's L1 norm, others 0."""

from __future__ import annotations

import warnings
from fractions import Fraction

import torch
from torch import Tensor

from lit_robust import radius
from lit_robust.backward import SurrogateLayer, replace_gradient
from lit_robust.errors import UserError


class CodeActivation(SurrogateLayer):
    """½ [sgn(v − j) + sgn(v + j)] ‖d‖₁ with v = a / ‖d‖₁ and j = βε (dissertation, section 4.2).

    An L∞ perturbation of radius ε changes v by at most ε (Hölder). For β > ½ no entry of the code therefore changes its
    sign, and for β > 1 no coefficient behind an entry does; entries can only become 0 or come from 0.

    Its backward passes: `smooth(s)`, the derivative of ½ [tanh(s (v − j)) + tanh(s (v + j))] in v, in which the two
    factors ‖d‖₁ cancel; `identity`; and `exact`, which is zero. Appendix B of the dissertation found s = 4 strongest.

    Args:
        eps: Radius ε of the design, in units of the [0, 1] pixel range; a number, or text such as `8/255`.
        beta: Multiplier β of the radius.
        backward: Backward pass in force: smooth(s), identity or exact.

    Raises:
        UserError: If `eps` or `beta` is not above 0.
    """

    offered = ("smooth(4)", "smooth(2)", "smooth(8)", "smooth(32)", "identity", "exact")

    def __init__(
        self, eps: Fraction | float | str = "8/255", *, beta: float = 3.0, backward: str | None = None
    ) -> None:
        super().__init__(backward=backward)
        self.eps = radius.parse(eps, name="eps")
        self.beta = beta
        if not (self.eps > 0 and beta > 0):
            raise UserError(f"expected eps and beta of CodeActivation above 0, got eps = {eps} and beta = {beta}")
        self.threshold = beta * float(self.eps)
        _warn(beta)

    def forward(self, a: Tensor, norm: Tensor) -> Tensor:
        """Entries of the code, of the shape of `a`.

        Args:
            a: Coefficients, of any shape.
            norm: L1 norm of each coefficient's atom, of a shape that broadcasts to that of `a`.
        """
        v, j = a / norm, self.threshold
        hard = 0.5 * (torch.sign(v - j) + torch.sign(v + j)) * norm
        if self.kind == "exact":
            return hard
        if self.kind == "identity":
            return replace_gradient(hard, a)
        s = self.number
        soft = 0.5 * (torch.tanh(s * (v - j)) + torch.tanh(s * (v + j))) * norm
        return replace_gradient(hard, soft)

    def extra_repr(self) -> str:
        """The settings, for `print(model)`."""
        return f"eps={self.eps}, beta={self.beta:g}, backward={self.backward_pass!r}"


def _warn(beta: float) -> None:
    if beta > 1:
        return
    what = "an entry of the code" if beta <= 0.5 else "the coefficient behind an entry"
    warnings.warn(
        f"beta = {beta:g}: a perturbation of the design's eps can change the sign of {what}; above 1 it can change the "
        "sign of neither code nor coefficients",
        stacklevel=3,
    )
