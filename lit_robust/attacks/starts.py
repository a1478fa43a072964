"""Where a decision-based attack starts: the first adversarial of each sample, wherever it may lie."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lit_robust.attacks.queries import Queries
from lit_robust.errors import UserError

CLEAN, SEEK, BLEND, LAST, FIRST = range(5)  # steps of queries: image, starts, blends, answer; then those of the walk
_ENTRIES = 1 << 23  # numbers of the pool, or of its distances, that are held in float64 at once
_TIE = 2.0**-24  # squared distances are rounded to this, so that equal ones rank by position in any batch


@dataclass(frozen=True, kw_only=True)
class Start(ABC):
    """Finds an adversarial of each sample, which an attack then brings nearer."""

    @abstractmethod
    def __call__(self, ask: Queries, x: Tensor) -> tuple[Tensor, Tensor]:
        """Starting images.

        Args:
            ask: Says which images are adversarial.
            x: Images in [0, 1] of the samples of `ask`, which the model gets right, (N, C, H, W).

        Returns:
            Images in [0, 1] that the model was seen to get wrong, (N, C, H, W), and whether there is one, (N,) bool;
            the image itself where there is none.
        """

    @property
    def queries(self) -> int | None:
        """The most queries that a sample makes, or None if nobody knows."""
        return None

    @property
    def wants_images(self) -> bool:
        """Whether it chooses from a pool of images, which `bound` has to bring."""
        return False

    def bound(self, pool: Tensor) -> Start:
        """The same start with a pool of images to choose from, where it wants one; see `NearestImage.bound`."""
        del pool  # unused where none is wanted
        return self


@dataclass(frozen=True, kw_only=True)
class BlendedNoise(Start):
    """Uniform noise that is adversarial, blended with the image as much as it may be, as foolbox starts.

    A sample tries noise images until one is adversarial, then blends the image towards it in equal steps and takes the
    first adversarial.

    Args:
        directions: Noise images that a sample tries at most.
        steps: Blends between the image and the noise.

    Raises:
        UserError: If a number is below 1.
    """

    directions: int = 1000
    steps: int = 50

    def __post_init__(self) -> None:
        for name in ("directions", "steps"):
            if getattr(self, name) < 1:
                raise UserError(f"expected {name} to be at least 1, got {getattr(self, name)}")

    def __str__(self) -> str:
        return f"blended noise ({self.directions} directions, {self.steps} steps)"

    @property
    def queries(self) -> int:
        """All directions, and all blends but the noise itself."""
        return self.directions + self.steps - 1

    def __call__(self, ask: Queries, x: Tensor) -> tuple[Tensor, Tensor]:
        """The first adversarial on the way to the first adversarial noise image."""
        end, found = x.clone(), torch.zeros(len(x), dtype=torch.bool, device=x.device)
        for draw in range(self.directions):
            rows = (~found).nonzero().flatten()
            if not len(rows):
                break
            images = ask.noise.rows(rows).uniform("noise image", x.shape[1:], draw=draw, dtype=x.dtype)
            broken = ask(images, rows=rows, step=SEEK, draw=draw)
            end[rows[broken]], found[rows[broken]] = images[broken], True
        start, rows = end.clone(), found.nonzero().flatten()
        for draw in range(1, self.steps):
            if not len(rows):
                break
            images = torch.lerp(x[rows], end[rows], draw / self.steps).clamp_(0, 1)
            broken = ask(images, rows=rows, step=BLEND, draw=draw)
            start[rows[broken]], rows = images[broken], rows[~broken]
        return start, found


@dataclass(frozen=True, kw_only=True)
class NearestImage(Start):
    """The nearest image of a pool, in pixel L2, to which the model does not give the sample's true label.

    A sample asks about its nearest images, one, then one, two, four and so on in a pass, until one is adversarial, so
    it makes less than twice the queries of asking one by one. The queries are its own and draw its own noise. An image
    equal to the sample's is passed over.

    Args:
        candidates: How many of the nearest images a sample may ask about.

    Attributes:
        pool: The images, (P, C, H, W), in [0, 1] or as bytes; evaluation brings those of the test set (`bound`).

    Raises:
        UserError: If `candidates` is below 1.
    """

    candidates: int = 1000
    pool: Tensor | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.candidates < 1:
            raise UserError(f"expected candidates to be at least 1, got {self.candidates}")

    def __str__(self) -> str:
        return f"nearest image of another prediction ({self.candidates} candidates)"

    @property
    def queries(self) -> int:
        """All candidates."""
        return self.candidates

    @property
    def wants_images(self) -> bool:
        """True: it chooses from a pool."""
        return True

    def bound(self, pool: Tensor) -> NearestImage:
        """The same start with these images to choose from.

        Args:
            pool: Images (P, C, H, W), floating point in [0, 1] or uint8 in [0, 255]; kept where they are, and moved to
                the samples' device in parts.

        Raises:
            UserError: If there are no images, or they are not in this form.
        """
        if pool.ndim != 4 or not len(pool):
            raise UserError(f"expected a pool of one or more images (P, C, H, W), got shape {tuple(pool.shape)}")
        if pool.dtype != torch.uint8 and not pool.is_floating_point():
            raise UserError(f"expected a pool of floating-point or uint8 images, got {pool.dtype}")
        if pool.is_floating_point() and not (pool.amin() >= 0 and pool.amax() <= 1):
            raise UserError(f"expected a pool of images in [0, 1], got {pool.amin():.4g} to {pool.amax():.4g}")
        other = copy(self)
        object.__setattr__(other, "pool", pool)
        return other

    def __call__(self, ask: Queries, x: Tensor) -> tuple[Tensor, Tensor]:
        """The nearest images of the pool that are adversarial.

        Raises:
            UserError: If there is no pool, or its images have another shape.
        """
        pool = self._checked(x)
        start, found = x.clone(), torch.zeros(len(x), dtype=torch.bool, device=x.device)
        for rows in torch.split(torch.arange(len(x), device=x.device), max(1, _ENTRIES // len(pool))):
            start[rows], found[rows] = self._seek(ask.rows(rows), x[rows], pool)
        return start, found

    def _checked(self, x: Tensor) -> Tensor:
        if self.pool is None:
            raise UserError(
                "NearestImage has no images to choose from: give the attack a pool, `attack = attack.bound(images)`, "
                "as evaluation does with the test set, or start from BlendedNoise"
            )
        if self.pool.shape[1:] != x.shape[1:]:
            raise UserError(
                f"expected a pool of images of shape {tuple(x.shape[1:])}, got {tuple(self.pool.shape[1:])}"
            )
        return self.pool

    def _seek(self, ask: Queries, x: Tensor, pool: Tensor) -> tuple[Tensor, Tensor]:
        order, other = _ranked(x, pool, self.candidates)
        start, found = x.clone(), torch.zeros(len(x), dtype=torch.bool, device=x.device)
        tried = 0
        while tried < order.shape[1] and not found.all():
            width = min(max(1, tried), ask.chunk, order.shape[1] - tried)
            for rows in torch.split((~found).nonzero().flatten(), max(1, ask.chunk // width)):
                images = _images(pool, order[rows, tried : tried + width].flatten(), x)
                broken = ask(images, rows=rows.repeat_interleave(width), step=SEEK, draw=tried).view(-1, width)
                broken &= other[rows, tried : tried + width]
                hit, first = broken.any(1), broken.int().argmax(1)
                at = torch.arange(len(rows), device=x.device) * width + first
                start[rows[hit]], found[rows[hit]] = images[at[hit]], True
            tried += width
        return start, found


@dataclass(frozen=True, kw_only=True)
class Given(Start):
    """Starting images that are known already, to compare attacks, or libraries, from the same ones.

    A sample whose image is not adversarial has no start.

    Args:
        images: One image in [0, 1] for each sample that the attack is called with, (N, C, H, W).
    """

    images: Tensor = field(repr=False, compare=False)

    def __str__(self) -> str:
        return "given images"

    @property
    def queries(self) -> int:
        """The image itself."""
        return 1

    def __call__(self, ask: Queries, x: Tensor) -> tuple[Tensor, Tensor]:
        """The given images.

        Raises:
            UserError: If their shape is another, there are too few, or they are outside [0, 1].
        """
        images = self.images
        if images.shape[1:] != x.shape[1:] or (len(x) and int(ask.position.max()) >= len(images)):
            raise UserError(
                f"expected a starting image for each sample, of shape {tuple(x.shape[1:])}, got {tuple(images.shape)}"
            )
        images = images[ask.position.to(images.device)].to(x)
        if len(x) and not (images.amin() >= 0 and images.amax() <= 1):
            raise UserError(f"expected starting images in [0, 1], got {images.amin():.4g} to {images.amax():.4g}")
        found = ask(images, step=SEEK)
        return torch.where(found.view(-1, 1, 1, 1), images, x), found


def _images(pool: Tensor, rows: Tensor, like: Tensor) -> Tensor:
    """Some images of a pool in [0, 1], on the device and in the precision of others."""
    images = pool[rows.to(pool.device)]
    return images.to(like) / 255 if images.dtype == torch.uint8 else images.to(like)


def _parts(pool: Tensor, like: Tensor) -> Iterator[Tensor]:
    """The pool as rows (M, D) of float64, a part at a time."""
    for rows in torch.split(torch.arange(len(pool)), max(1, _ENTRIES // pool[0].numel())):
        yield _images(pool, rows, like).flatten(1).double()


def _ranked(x: Tensor, pool: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Each sample's nearest images in L2 as rows of the pool, (N, K) int64, and which are another image than it."""
    device, x = x.device, x.cpu() if x.device.type == "mps" else x  # MPS has no float64
    flat = x.flatten(1).double()
    own = flat.square().sum(1, keepdim=True)
    squared = torch.cat([own + p.square().sum(1) - 2 * flat @ p.T for p in _parts(pool, x)], dim=1)
    ranked, order = (squared / _TIE).round_().sort(dim=1, stable=True)
    return order[:, :count].to(device), (ranked[:, :count] > 0).to(device)
