"""ZOO: coordinate descent on gradients that are estimated from the scores of a model."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lit_robust.attacks.minimum_norm import MinimumNormAttack
from lit_robust.attacks.nearest import Nearest
from lit_robust.errors import UserError
from lit_robust.losses import labels, margin
from lit_robust.sampling import Noise
from lit_robust.threat import LpNorm

_BETA_1, _BETA_2, _TINY = 0.9, 0.999, 1e-8  # of Adam
_NEARLY = 0.999999  # keeps the inverse of tanh finite at the edges of the box
_FALL = 0.9999  # a loss that stays above this share of what it was does not fall any more


@dataclass(frozen=True, kw_only=True)
class ZOO(MinimumNormAttack):
    """Zeroth-order optimisation (Chen et al., 2017, the ADAM form), untargeted in L2, for all samples at once.

    It descends |x_adv − x|² + c · max(log p_y − max over j of log p_j + confidence, 0) over w, with
    x_adv = (tanh(w) + 1) / 2. An iteration draws some coordinates of w, estimates the derivative along each by a
    symmetric difference of two queries, and moves each by Adam with a step counter of its own. The descent starts from
    the image for each c; c grows tenfold until it succeeds and is bisected from then on. The defaults are the authors'.

    An iteration takes 2 · `coordinates` + 1 queries. Those of one sample and iteration draw the same noise in a random
    model. The difference of two squared distances is taken in closed form, which rounds less.

    Args:
        norm: L2.
        eps: See `MinimumNormAttack`.
        iterations: The most iterations for each c.
        coordinates: Coordinates of an iteration, of those that the image has.
        difference: How far the two queries lie on either side, in w.
        lr: Learning rate of Adam.
        c: The first weight of the margin.
        searches: Values of c.
        confidence: By how much another class has to lead.
        abort_every: After so many iterations a descent ends whose loss has not fallen by 0.01 % since the last look.
        chunk: The most images in a forward pass.

    Raises:
        UserError: If the norm is another one, or a number out of range.
    """

    norm: LpNorm = "l2"
    iterations: int = 1000
    coordinates: int = 128
    difference: float = 1e-4
    lr: float = 0.01
    c: float = 0.01
    searches: int = 9
    confidence: float = 0.0
    abort_every: int = 100
    chunk: int = 4096

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.norm != "l2":
            raise UserError(f"expected norm to be l2, which ZOO descends, got {self.norm!r}")
        for name in ("iterations", "coordinates", "searches", "abort_every", "chunk"):
            if getattr(self, name) < 1:
                raise UserError(f"expected {name} to be 1 or more, got {getattr(self, name)}")
        for name in ("difference", "lr", "c"):
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(f"expected {name} to be above 0, got {getattr(self, name)}")
        if not 0 <= self.confidence < math.inf:
            raise UserError(f"expected confidence to be 0 or more, got {self.confidence}")

    @property
    def label(self) -> str:
        """A short name."""
        return f"{type(self).__name__}-{self.iterations}"

    def __str__(self) -> str:
        return f"{self.label} {self.counted}, {self.coordinates} coordinates, c {self.c:g} x {self.searches}"

    def passes(self, classes: int) -> tuple[int, int] | None:
        """The most forward and backward passes that a sample takes."""
        return 1 + self.searches * self.iterations * (2 * self.coordinates + 1), 0

    def search(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """The nearest adversarial among the iterates."""
        return self._bisect(model, x, labels(y), noise, within=None)

    def falsify(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise, *, leave: bool = True) -> Tensor:
        """The nearest adversarial, or with `eps` and `leave` the first one within `eps`."""
        return self._bisect(model, x, labels(y), noise, within=self._within(leave))

    @torch.no_grad()
    def _bisect(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise, *, within: float | None) -> Tensor:
        """Descends for each c, with the c of each sample its own; `within` is as for `Nearest`."""
        with noise.keyed():
            wrong = self.broken(model(x), y)
        nearest = Nearest(x, "l2")
        nearest.record(x, wrong)
        enough = 0.0 if within is None else within  # nothing is nearer than an image that is wrong already
        c = x.new_full((len(x),), self.c)
        low, high = torch.zeros_like(c), torch.full_like(c, torch.inf)
        for number in range(self.searches):
            found = self._descend(model, _Descent(x, y, noise), nearest, c, enough, number * self.iterations + 1)
            low, high = torch.where(found, low, c), torch.where(found, c, high)
            c = torch.where(high.isfinite(), (low + high) / 2, 10 * c)
        return nearest.x_adv

    def _descend(
        self, model: nn.Module, descent: _Descent, nearest: Nearest, c: Tensor, enough: float, first: int
    ) -> Tensor:
        """One descent, whose noise counts steps from `first` on; says for which samples it succeeded, (N,)."""
        found = torch.zeros_like(c, dtype=torch.bool)
        going, before = ~found, torch.full_like(c, torch.inf)
        for iteration in range(self.iterations):
            going = going & (nearest.distance > enough)
            rows = going.nonzero().squeeze(1)
            if not len(rows):
                break
            loss, broken, grad, places = self._look(model, descent, rows, c[rows], first + iteration)
            found[rows] |= broken
            nearest.record(descent.images, torch.zeros_like(found).index_put((rows,), broken))
            if iteration % self.abort_every == 0:
                going[rows] = loss <= _FALL * before[rows]
                before[rows] = loss
            descent.step(rows, places, grad, self.lr)
        return found

    def _look(
        self, model: nn.Module, descent: _Descent, rows: Tensor, c: Tensor, step: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Loss (M,) and success (M,) of the iterates, the derivatives along some coordinates, (M, K), and which."""
        noise, x, y, w = descent.noise.rows(rows), descent.x[rows], descent.y[rows], descent.w[rows]
        x_adv, count = descent.x_adv[rows], min(self.coordinates, x.shape[1])
        places = _order(noise, x.shape[1], step)[:, :count]
        ahead, behind = (_pixel(w.gather(1, places) + way) for way in (self.difference, -self.difference))
        # The first query changes nothing.
        entries = torch.cat([x_adv.gather(1, places[:, :1]), ahead, behind], 1)
        images = x_adv.view(-1, *descent.shape)
        logits = self._query(model, images, torch.cat([places[:, :1], places, places], 1), entries, noise, step)
        gap = margin(logits.flatten(0, 1), y.repeat_interleave(entries.shape[1])).view(entries.shape)
        hinge = (gap + self.confidence).clamp(min=0)
        rise = hinge[:, 1 : count + 1] - hinge[:, count + 1 :]
        farther = (ahead - behind) * (ahead + behind - 2 * x.gather(1, places))
        loss = (x_adv - x).square().sum(1) + c * hinge[:, 0]
        broken = self.broken(logits[:, 0], y) & (hinge[:, 0] == 0)
        return loss, broken, (farther + c[:, None] * rise) / (2 * self.difference), places

    def _query(
        self, model: nn.Module, images: Tensor, places: Tensor, entries: Tensor, noise: Noise, step: int
    ) -> Tensor:
        """Logits (M, Q, classes) of images (M, C, H, W) with one entry changed, which and to what both (M, Q)."""
        queries, logits = torch.arange(places.numel(), device=places.device), []
        for begin in range(0, len(queries), self.chunk):
            part = queries[begin : begin + self.chunk]
            rows = part // places.shape[1]
            changed = images[rows]
            changed.view(len(rows), -1).scatter_(1, places.flatten()[part, None], entries.flatten()[part, None])
            with noise.rows(rows).keyed(step):
                logits.append(model(changed))
        return torch.cat(logits).view(*places.shape, -1)


def _order(noise: Noise, entries: int, step: int) -> Tensor:
    """The entries of each image in a random order, (M, D)."""
    # In float64, where no two numbers are equal, so that nothing hangs on how a tie is broken; MPS has none.
    wide = torch.float32 if noise.key.device.type == "mps" else torch.float64
    return noise.uniform("coordinates", (entries,), step=step, dtype=wide).argsort(1)


def _pixel(w: Tensor) -> Tensor:
    return (w.tanh() + 1) / 2


class _Descent:
    """Where the descent of each sample is, with the state of Adam for each coordinate.

    Args:
        x: The images that it starts from, (N, C, H, W).
        y: Labels, (N,).
        noise: Streams of the samples.
    """

    def __init__(self, x: Tensor, y: Tensor, noise: Noise) -> None:
        self.shape = x.shape[1:]
        self.x, self.y, self.noise = x.flatten(1), y, noise
        self.w = ((2 * self.x - 1) * _NEARLY).atanh()
        self.x_adv = _pixel(self.w)
        self._mean, self._square, self._count = (torch.zeros_like(self.w) for _ in range(3))

    @property
    def images(self) -> Tensor:
        """The iterates, (N, C, H, W)."""
        return self.x_adv.view(-1, *self.shape)

    def step(self, rows: Tensor, places: Tensor, grad: Tensor, lr: float) -> None:
        """Moves some coordinates of some samples: rows (M,), places and derivatives (M, K)."""
        at = rows[:, None], places
        count = self._count[at] + 1
        mean = _BETA_1 * self._mean[at] + (1 - _BETA_1) * grad
        square = _BETA_2 * self._square[at] + (1 - _BETA_2) * grad.square()
        rate = lr * (1 - _BETA_2**count).sqrt() / (1 - _BETA_1**count)
        self._count[at], self._mean[at], self._square[at] = count, mean, square
        self.w[at] -= rate * mean / (square.sqrt() + _TINY)
        self.x_adv[at] = _pixel(self.w[at])
