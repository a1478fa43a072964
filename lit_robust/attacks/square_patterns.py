"""The proposals of the Square Attack: what each of its queries changes in the best image so far."""

from __future__ import annotations

from abc import ABC, abstractmethod
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_robust.projections import ORDER, length
from lit_robust.sampling import Noise
from lit_robust.threat import ThreatModel

_CHUNK = 64  # queries whose random numbers are drawn at once, which costs hardly more than those of one
_TINY = 1e-12


class Proposals(ABC):
    """The best image of each sample so far, and the one to look at next.

    At a query all samples change a window of the same side, each at a place of its own.

    Args:
        x: Images, (N, C, H, W).
        sides: Side of the window of each query; query 0 looks at the start and has none.
        numbers: Random numbers that a proposal takes.
    """

    _best: Tensor  # (M, D), one row a sample that goes on

    def __init__(self, x: Tensor, sides: list[int], numbers: int) -> None:
        self._shape = self._channels, self._height, self._width = tuple(x.shape[1:])
        self._numbers = numbers
        self._chunks = _chunks(sides)
        self._first = 0  # query of the first of the numbers at hand

    @property
    def x_best(self) -> Tensor:
        """Images of the lowest margin so far, (M, C, H, W)."""
        return self._best.view(-1, *self._shape)

    def propose(self, query: int, noise: Noise) -> Tensor:
        """The images of a query, (M, C, H, W), valid until `keep`, which follows each proposal.

        Args:
            query: Number of the query, in order; 0 is the start.
            noise: Streams of the rows that go on.
        """
        if query == 0:
            return self.x_best
        if query in self._chunks:
            count, side = self._chunks[query]
            self._first = query
            self._load(noise.uniform("proposal", (count, self._numbers), step=query), side)
        return self._change(query - self._first).view(-1, *self._shape)

    @abstractmethod
    def keep(self, better: Tensor) -> None:
        """Takes the proposal as the best image of some rows and forgets it in the others.

        Args:
            better: Mask of the rows, (M,).
        """

    @abstractmethod
    def narrow(self, going: Tensor) -> None:
        """Drops the other rows; `going` is a mask, (M,)."""

    @abstractmethod
    def _load(self, u: Tensor, side: int) -> None:
        """Turns uniform numbers, (M, count, numbers), into what the next `count` proposals take."""

    @abstractmethod
    def _change(self, i: int) -> Tensor:
        """Proposal `i` of those loaded, (M, D)."""

    def _corners(self, u: Tensor, side: int) -> Tensor:
        """First entries of windows in a flat channel, (...), anywhere that a window fits, from numbers (..., 2)."""
        rows, columns = self._height - side + 1, self._width - side + 1
        return (u[..., 0] * rows).long() * self._width + (u[..., 1] * columns).long()

    def _window(self, side: int, device: torch.device) -> Tensor:
        """A window's entries in a flat image, from its first entry on, (C, side²)."""
        along = torch.arange(side, device=device)
        window = (along[:, None] * self._width + along).flatten()
        return torch.arange(self._channels, device=device)[:, None] * (self._height * self._width) + window


def _chunks(sides: list[int]) -> dict[int, tuple[int, int]]:
    """First queries of runs with one side, each with the number of queries, at most `_CHUNK`, and the side."""
    chunks = {}
    for side, run in groupby(range(1, len(sides)), key=sides.__getitem__):
        queries = list(run)
        for begin in range(0, len(queries), _CHUNK):
            chunks[queries[begin]] = (len(queries[begin : begin + _CHUNK]), side)
    return chunks


class Squares(Proposals):
    """L∞: every entry is at an end of its range, and a proposal takes each channel of a window to one of the ends.

    The start is vertical stripes (Andriushchenko et al., 2020, Algorithm 2).

    Args:
        threat: The ball.
        x: As for `Proposals`.
        sides: As for `Proposals`.
        noise: Streams of the samples.
    """

    def __init__(self, threat: ThreatModel, x: Tensor, sides: list[int], noise: Noise) -> None:
        super().__init__(x, sides, numbers=2 + x.shape[1])
        low, high = (threat.project(x + end, x).flatten(1) for end in (-threat.radius, threat.radius))
        stripes = noise.uniform("start", (self._channels, 1, self._width)) >= 0.5
        self._best = torch.where(stripes.expand_as(x).flatten(1), high, low)
        self._ends = torch.cat([low, high], 1)  # (M, 2 D)
        self._at = self._end = self._places = torch.zeros(len(x), 0, dtype=torch.int64, device=x.device)
        self._old = self._new = self._best[:, :0]

    def _load(self, u: Tensor, side: int) -> None:
        self._at = self._corners(u[..., :2], side)  # (M, count)
        self._end = (u[..., 2:] >= 0.5).long() * self._best.shape[1]  # (M, count, C), where it begins in `_ends`
        self._entries = self._window(side, u.device)

    def _change(self, i: int) -> Tensor:
        # The best image itself is changed, and changed back by `keep`: a copy would cost more than a small window.
        places = self._at[:, i, None, None] + self._entries
        self._places, ends = places.flatten(1), (places + self._end[:, i, :, None]).flatten(1)
        self._old, self._new = self._best.gather(1, self._places), self._ends.gather(1, ends)
        return self._best.scatter_(1, self._places, self._new)

    def keep(self, better: Tensor) -> None:
        """See `Proposals.keep`."""
        self._best.scatter_(1, self._places, torch.where(better[:, None], self._new, self._old))

    def narrow(self, going: Tensor) -> None:
        """See `Proposals.narrow`."""
        self._best, self._ends = self._best[going], self._ends[going]
        self._at, self._end = self._at[going], self._end[going]


class Bumps(Proposals):
    """L2 and L1: a proposal gives what two windows hold, and what is left of the radius, to a bump in one of them.

    A bump is positive in one half of its window and negative in the other, falls off from the middle of each half, has
    a sign of its own in each channel, and is mixed with what the window held before. The start is a grid of bumps
    (Andriushchenko et al., 2020, Algorithm 3; Croce and Hein, 2021, for L1). As in the authors' code, in L2 a proposal
    is scaled to the radius and then cut by the box; in L1 it is projected onto ball and box.

    Args:
        threat: The ball.
        x: As for `Proposals`.
        sides: As for `Proposals`.
        noise: Streams of the samples.
    """

    def __init__(self, threat: ThreatModel, x: Tensor, sides: list[int], noise: Noise) -> None:
        super().__init__(x, sides, numbers=5 + x.shape[1])
        self._threat, self._power = threat, int(ORDER[threat.norm])
        self._x = x.flatten(1)
        unit = torch.finfo(x.dtype).eps
        rounded = self._x.shape[1] ** 0.5 * unit / 4  # what rounding x + delta may add to the L2 norm of delta
        self._radius = max(threat.radius * (1 - 2 * unit) - rounded, 0.0)
        self._best = self._next = self._inside(self._grid(noise))
        self._delta = self._best - self._x
        self._length = length(self._delta, threat.norm)
        self._to = self._from = self._turned = torch.zeros(len(x), 0, dtype=torch.int64, device=x.device)
        self._sign = self._x[:, :0, None]

    def _load(self, u: Tensor, side: int) -> None:
        self._to, self._from = self._corners(u[..., :2], side), self._corners(u[..., 2:4], side)  # (M, count) each
        self._turned, self._sign = self._drawn(u[..., 4:])
        self._entries = self._window(side, u.device)
        self._bumps = _bumps(side, self._power).to(self._x)

    def _change(self, i: int) -> Tensor:
        to, source = ((at[:, i, None, None] + self._entries).flatten(1) for at in (self._to, self._from))
        delta = self._delta.scatter(1, to, 0.0)
        old, moved = (d.gather(1, at).view(-1, *self._entries.shape) for d, at in ((self._delta, to), (delta, source)))
        size, p = self._norm(old), self._power  # of each channel
        spare = (self._radius**p - self._length**p).clamp(min=0)[:, None, None] / self._channels
        budget = (spare + size**p + self._norm(moved) ** p) ** (1 / p)
        if p == 1:
            budget *= self._channels  # more than there is; the projection takes it back where it costs least
        bump = self._bumps[self._turned[:, i], None] * self._sign[:, i, :, None] + old / (size + _TINY)
        bump *= budget / (self._norm(bump) + _TINY)
        self._next = self._inside(delta.scatter_(1, source, 0.0).scatter_(1, to, bump.flatten(1)))
        return self._next

    def keep(self, better: Tensor) -> None:
        """See `Proposals.keep`."""
        rows = better.nonzero().squeeze(1)
        if len(rows):
            best = self._next[rows]
            delta = best - self._x[rows]
            self._best[rows], self._delta[rows], self._length[rows] = best, delta, length(delta, self._threat.norm)

    def narrow(self, going: Tensor) -> None:
        """See `Proposals.narrow`."""
        self._x, self._best, self._delta = self._x[going], self._best[going], self._delta[going]
        self._length, self._to, self._from = self._length[going], self._to[going], self._from[going]
        self._turned, self._sign = self._turned[going], self._sign[going]

    def _drawn(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Which way a bump lies, (...), and the sign of each channel, (..., C), from numbers (..., 1 + C)."""
        return (u[..., 0] > 0.5).long(), torch.where(u[..., 1:] < 0.5, -1.0, 1.0).to(self._x.dtype)

    def _grid(self, noise: Noise) -> Tensor:
        """The start's perturbation before it is brought inside: as many bumps as fit, a fifth of the image wide."""
        side = max(min(self._height, self._width) // 5, 1)
        down, across = self._height // side, self._width // side
        turned, sign = self._drawn(noise.uniform("start", (down * across, 1 + self._channels)))
        bumps = _bumps(side, self._power).to(self._x)[turned, None] * sign[..., None]  # (M, down · across, C, side²)
        grid = bumps.view(-1, down, across, self._channels, side, side).permute(0, 3, 1, 4, 2, 5)
        top, left = (self._height - down * side) // 2, (self._width - across * side) // 2
        bottom, right = self._height - down * side - top, self._width - across * side - left
        return F.pad(grid.reshape(-1, self._channels, down * side, across * side), (left, right, top, bottom)).flatten(
            1
        )

    def _norm(self, window: Tensor) -> Tensor:
        norm: Tensor = torch.linalg.vector_norm(window, ord=self._power, dim=-1, keepdim=True)
        return norm

    def _inside(self, delta: Tensor) -> Tensor:
        """Perturbed images inside ball and box, (M, D)."""
        if self._power == 1:
            return self._threat.project(self._x + delta, self._x)
        scale = self._radius / length(delta, "l2").clamp(min=_TINY)
        return torch.addcmul(self._x, delta, scale[:, None]).clamp_(0, 1)


def _bumps(side: int, power: int) -> Tensor:
    """A bump and its transpose, of length 1 in the L1 or L2 norm, (2, side²)."""
    upper, lower = _hill(side // 2, side, power), _hill(side - side // 2, side, power)
    bump = torch.cat([upper, -lower])
    bump /= bump.norm(p=power)
    return torch.stack([bump, bump.T]).flatten(1)


def _hill(height: int, width: int, power: int) -> Tensor:
    """A positive pattern of length 1 that falls off from the middle in squares, (height, width).

    The entry at Chebyshev distance d from the middle is the sum of 1 / k^q over k from d + 1 on, up to the largest
    distance; q is 2 in the L2 norm and 4 in L1.
    """
    rows, columns = (torch.arange(n) - n // 2 for n in (height, width))
    distance = torch.maximum(rows.abs()[:, None], columns.abs()[None])
    terms = 1 / torch.arange(1, max(height, width) // 2 + 2, dtype=torch.float64) ** {2: 2, 1: 4}[power]
    hill: Tensor = terms.flip(0).cumsum(0).flip(0)[distance]
    hill /= hill.norm(p=power).clamp(min=_TINY)
    return hill
