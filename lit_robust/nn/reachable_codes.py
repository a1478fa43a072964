"""The codes that a polarizing front end can be brought to: what an adversary can change at all.

A normalised activation z = wᵀx / ‖w‖₁ is linear in the image, so its values on a ball cut by the pixel box are an
interval, and its levels those between the levels of the two ends: the dissertation's Proposition 1, made for each image
and any radius.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_robust import bounds
from lit_robust.backward import replace_gradient
from lit_robust.errors import UserError
from lit_robust.nn.polarizing import PolarizingFrontEnd
from lit_robust.threat import ThreatModel

WIDENING = 1e-5  # of z, for the rounding of a float32 front end
_NORM_FLOOR = 1e-12  # added to ‖w‖₁, as the front end does


@dataclass(frozen=True)
class ReachableCodes:
    """Ends of the levels that each entry of a code can take; it can take no level outside.

    Attributes:
        lower: Lowest level, (N, K, H, W).
        upper: Highest level, (N, K, H, W).
    """

    lower: Tensor
    upper: Tensor

    @property
    def decided(self) -> Tensor:
        """Which entries nothing in the ball can change, (N, K, H, W) bool."""
        return self.lower == self.upper

    @property
    def undecided(self) -> Tensor:
        """Number of entries that may change, (N,); where it is 0, the classifier behind sees one and the same code."""
        return (self.lower != self.upper).flatten(1).sum(1)


def reachable_codes(front_end: PolarizingFrontEnd, x: Tensor, threat: ThreatModel) -> ReachableCodes:
    """The levels that each activation can take on the images that a threat model allows.

    The ends of z are exact in L∞, and widened for rounding; see `response_ends`. Levels at the ends include ±½, where z
    is equal to a threshold. The ends of the code have the identity's gradient in those of z, so that filters can learn
    to keep clear of the thresholds.

    Args:
        front_end: The front end, of a float32 network.
        x: Images in [0, 1], (N, C, H, W); bounds are in their precision, float64 for a certificate.
        threat: What may be changed: L∞, L2, L1 or the whole box, of any radius.

    Raises:
        UserError: As for `response_ends`.
    """
    lower, upper = response_ends(front_end, x, threat)
    slack = widening(front_end, threat)
    return ReachableCodes(_code(front_end, lower - slack), _code(front_end, upper + slack))


def response_ends(front_end: PolarizingFrontEnd, x: Tensor, threat: ThreatModel) -> tuple[Tensor, Tensor]:
    """Least and largest z on the allowed images, (N, K, H, W) each, without widening.

    In L∞ they are those of the pixel box [max(0, x − eps), min(1, x + eps)], with padding that stays 0, and are
    attained. In L2 and L1 z moves by at most eps times the dual norm of the weights that meet pixels, over ‖w‖₁, and
    stays in the interval of the pixel box.

    Args:
        front_end: The front end.
        x: Images in [0, 1], (N, C, H, W).
        threat: As for `reachable_codes`.

    Raises:
        UserError: For L0, or a threat model without a radius.
    """
    eps = float(threat.exact)
    filters = _Filters(front_end, x)
    lower, upper = bounds.interval(filters, (x - eps).clamp(min=0), (x + eps).clamp(max=1))
    if threat.norm in ("linf", "box"):
        return lower, upper
    reach = eps * _dual_norms(filters, x, threat.norm)
    z = filters(x)
    return torch.maximum(lower, z - reach), torch.minimum(upper, z + reach)


def widening(front_end: PolarizingFrontEnd, threat: ThreatModel) -> float:
    """What z is widened by on both sides.

    It covers the rounding of a float32 convolution, whatever the order of its sum, and the tolerance with which
    `ThreatModel.contains` counts an image as allowed; 1e-5 where that is enough, as it is up to about a hundred taps.
    """
    taps = front_end.conv.weight[0].numel()
    return max(WIDENING, (taps + 8) * bounds.FLOAT32 + 1e-6 * max(1.0, float(threat.exact)))


class _Filters(nn.Module):
    """The front end up to z, without its quantiser, in the precision of the images."""

    def __init__(self, front_end: PolarizingFrontEnd, x: Tensor) -> None:
        super().__init__()
        self.conv = front_end.conv
        weight = self.conv.weight.to(x)
        norms = weight.abs().sum((1, 2, 3), keepdim=True) + _NORM_FLOOR
        self.weights = weight / norms  # of L1 norm 1

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weights, None, self.conv.stride, self.conv.padding)


def _dual_norms(filters: _Filters, x: Tensor, norm: str) -> Tensor:
    """Dual norm of the weights that meet pixels and not padding, (1, K, H, W), of filters of L1 norm 1.

    Raises:
        UserError: For a norm that has none.
    """
    inside, weights = torch.ones_like(x[:1]), filters.weights
    stride, padding = filters.conv.stride, filters.conv.padding
    if norm == "l2":
        return F.conv2d(inside, weights.square(), None, stride, padding).clamp(min=0).sqrt()
    if norm != "l1":
        raise UserError(f"reachable codes are for linf, l2, l1 and box, got {norm}; L0 bounds no pixel's change")
    assert not isinstance(padding, str)
    pixels = F.unfold(inside, weights.shape[2:], padding=padding, stride=stride)[0]  # (taps, locations)
    largest = torch.stack([(weight.abs().flatten()[:, None] * pixels).amax(0) for weight in weights])
    side = F.conv2d(inside, weights[:1], None, stride, padding).shape[2:]
    return largest.view(1, -1, *side)


def _code(front_end: PolarizingFrontEnd, z: Tensor) -> Tensor:
    """Levels of activations, with the identity's gradient."""
    level: Tensor = front_end.quantizer(z.detach())
    return replace_gradient(level, z)
