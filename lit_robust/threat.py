"""What an adversary may change: a norm ball around the image, cut by the pixel box [0, 1]. Norms live only here."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import torch
from torch import Tensor

from lit_robust import projections, radius
from lit_robust.errors import UserError
from lit_robust.sampling import Noise

LpNorm = Literal["linf", "l2", "l1", "l0"]
Norm = Literal[LpNorm, "box"]
NAMES = {"linf": "L∞", "l2": "L2", "l1": "L1", "l0": "L0", "box": "box"}
_TINY = 1e-12


@dataclass(frozen=True)
class ThreatModel:
    """The images that an adversary may answer with: within `eps` of the original in `norm`, and within [0, 1].

    Args:
        eps: Radius in units of the [0, 1] pixel range, as a Fraction, a float or text such as `8/255`; kept as an
            exact Fraction. For `l0` the number of changed entries. None for any distance: every image in [0, 1] is
            allowed, and `norm` only measures how far it is, as minimum-norm attacks need it.
        norm: `linf`, `l2`, `l1`, `l0`, or `box` for no ball at all (see `ThreatModel.box`).

    Raises:
        UserError: If `eps` is negative, not a number, or above 1 in L∞.
    """

    eps: Fraction | float | str | None
    norm: Norm = "linf"

    def __post_init__(self) -> None:
        if self.norm not in NAMES:
            raise UserError(f"expected norm to be one of {', '.join(NAMES)}, got {self.norm!r}")
        if self.eps is None:
            if self.norm == "box":
                raise UserError("the box has no distance to leave out; write ThreatModel.box()")
            return
        eps = radius.parse(self.eps)
        if eps < 0:
            raise UserError(f"expected eps to be 0 or more, got {self.eps}")
        if self.norm in ("linf", "box") and eps > 1:
            raise UserError(
                f"eps is in units of the [0, 1] pixel range, where {float(eps):g} covers every image; "
                f"did you mean {float(eps):g}/255?"
            )
        if self.norm == "l0" and eps.denominator != 1:
            raise UserError(f"expected eps to be a whole number of entries in L0, got {self.eps}")
        object.__setattr__(self, "eps", eps)

    @classmethod
    def box(cls) -> ThreatModel:
        """Any image in [0, 1]: the threat model of noise and corruptions, which are no adversaries."""
        return cls(eps=1, norm="box")

    @property
    def radius(self) -> float:
        """The radius as a float, infinite for any distance."""
        return math.inf if self.eps is None else float(self.eps)

    @property
    def exact(self) -> Fraction:
        """The radius as a Fraction.

        Raises:
            UserError: If any distance is allowed, so that there is none.
        """
        if self.eps is None:
            raise UserError(f"expected a threat model with a radius, got {str(self)!r}; set eps")
        return radius.parse(self.eps)

    @property
    def _whole_box(self) -> bool:
        return self.norm == "box" or self.eps is None

    def __str__(self) -> str:
        if self.norm == "box":
            return "box"
        return f"{NAMES[self.norm]}{', any distance' if self.eps is None else f' {radius.show(self.exact)}'}"

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Refuses a ball that holds the whole box; any distance is no ball and passes.

        Args:
            shape: Shape of one image, (C, H, W).

        Raises:
            UserError: If `eps` is above the diameter of the box, as 8 is for 8/255 on small images.
        """
        if self.eps is None:
            return
        d = math.prod(shape)
        diameter = {"linf": 1.0, "box": 1.0, "l2": math.sqrt(d), "l1": float(d), "l0": float(d)}[self.norm]
        if self.radius > diameter:
            raise UserError(
                f"expected eps to be at most {diameter:g}, the {NAMES[self.norm]} diameter of the box of "
                f"{'x'.join(map(str, shape))} images, got {radius.show(self.exact)}; "
                f"radii are in units of the [0, 1] pixel range: did you mean {self.radius:g}/255?"
            )

    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """The nearest allowed image (in Euclidean distance), each sample on its own.

        Args:
            x_adv: Candidates, (N, ...).
            x: Originals in [0, 1], (N, ...).
        """
        if self._whole_box:
            return x_adv.clamp(0, 1)
        if self.norm == "linf":
            return torch.clamp(x_adv, (x - self.radius).clamp_(min=0), (x + self.radius).clamp_(max=1))
        delta = (x_adv - x).flatten(1)
        flat = x.flatten(1)
        room = torch.where(delta > 0, 1 - flat, flat)
        if self.norm == "l2":
            size = projections.project_l2(delta.abs(), room, self.radius)
        elif self.norm == "l1":
            size = projections.project_l1(delta.abs(), room, self.radius)
        else:
            size = projections.project_l0(delta.abs(), room, int(self.exact))
        # The box holds by construction up to the rounding of this sum. Equal thresholds round equally, which adds up in
        # L1, so what was rounded away from the image is rounded towards it.
        moved = (flat + torch.copysign(size, delta)).clamp(0, 1)
        return torch.where((moved - flat).abs() > size, torch.nextafter(moved, flat), moved).view_as(x)

    def random_point(self, x: Tensor, noise: Noise, step: int = 0) -> Tensor:
        """A random allowed image: uniform in the ball, then cut by the box; uniform in the box where there is no ball.

        Args:
            x: Originals in [0, 1], (N, ...).
            noise: Streams of the samples.
            step: Number of the draw.
        """
        if self._whole_box:
            return noise.uniform("start", x.shape[1:], step=step, dtype=x.dtype)
        if self.norm == "linf":
            u = noise.uniform("start", x.shape[1:], step=step, dtype=x.dtype)
            return self.project(x + self.radius * (2 * u - 1), x)
        d = math.prod(x.shape[1:])
        if self.norm == "l2":
            # The first D of D + 2 coordinates of a uniform point on the sphere are uniform in the ball.
            g = noise.normal("start", (d + 2,), step=step, dtype=x.dtype)
            delta: Tensor = self.radius * g[:, :d] / g.norm(dim=1, keepdim=True)
        elif self.norm == "l1":
            # D of D + 1 exponentials over their sum are uniform in the simplex, with random signs in the ball.
            e = -torch.log1p(-noise.uniform("start", (d + 1,), step=step, dtype=x.dtype))
            sign = torch.where(noise.uniform("sign", (d,), step=step) < 0.5, -1.0, 1.0).to(x.dtype)
            delta = self.radius * sign * e[:, :d] / e.sum(1, keepdim=True)
        else:
            chosen = noise.uniform("start", (d,), step=step).topk(min(int(self.exact), d), dim=1).indices
            value = noise.uniform("value", (d,), step=step, dtype=x.dtype)
            return x.flatten(1).scatter(1, chosen, value.gather(1, chosen)).view_as(x)
        return (x + delta.view_as(x)).clamp(0, 1)

    def ascent(self, grad: Tensor, x_adv: Tensor, *, l1_share: float = 0.01) -> Tensor:
        """Steepest unit step of this norm, each sample on its own; a zero gradient gives a zero step.

        Args:
            grad: Gradient of the objective, (N, ...).
            x_adv: Where it was taken, (N, ...).
            l1_share: For L1, the share of coordinates that the step is spread over (Tramèr and Boneh, 2019, section
                4.1): the steepest among those that the box still lets move.

        Raises:
            UserError: For L0, which has no gradient step.
        """
        if self.norm in ("linf", "box"):
            return grad.sign()
        flat = grad.flatten(1)
        if self.norm == "l2":
            flat = flat / flat.abs().amax(1, keepdim=True).clamp(min=torch.finfo(flat.dtype).tiny)  # no underflow
            length: Tensor = flat.norm(dim=1, keepdim=True)
            return (flat / length.clamp(min=_TINY)).view_as(grad)
        if self.norm == "l0":
            raise UserError("L0 has no gradient step; use a minimum-norm attack")
        at = x_adv.flatten(1)
        movable = torch.where(flat > 0, at < 1, at > 0)
        steepness = flat.abs() * movable
        count = max(1, round(l1_share * flat.shape[1]))
        top = steepness.topk(count, dim=1)
        moves = (top.values > 0).to(grad.dtype)
        spread = moves / moves.sum(1, keepdim=True).clamp(min=1)
        return torch.zeros_like(flat).scatter(1, top.indices, spread).mul(flat.sign()).view_as(grad)

    def distance(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """Distance of each sample in this norm (L∞ for `box`), (N,) in float64."""
        # MPS has no float64; distances are small tensors' work, so it is done on the host there.
        a, b = (t.cpu() if t.device.type == "mps" else t for t in (x_adv, x))
        delta = (a.double() - b.double()).flatten(1)
        order = projections.ORDER.get(self.norm, math.inf)
        distance: Tensor = torch.linalg.vector_norm(delta, ord=order, dim=1)
        return distance

    def contains(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """Whether each sample is allowed, (N,) bool, in float64 with tolerance 1e-6 · max(1, eps); NaN is not."""
        tolerance = 1e-6 * (1.0 if self._whole_box else max(1.0, self.radius))
        flat = x_adv.flatten(1)
        in_box = ((flat >= -tolerance) & (flat <= 1 + tolerance)).all(1)
        if self._whole_box:
            return in_box
        return in_box & (self.distance(x_adv, x) <= self.radius + tolerance).to(in_box.device)
