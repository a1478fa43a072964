"""Elastic transformation (after Simard, Steinkraus and Platt, 2003)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_robust.corruptions import filters
from lit_robust.corruptions.stored import stored
from lit_robust.sampling import Noise


@stored
def elastic_transform(x: Tensor, severity: int, noise: Noise) -> Tensor:
    """A random affine map, then a displacement that is smooth at severity 2 and ever rougher after.

    All lengths are shares of the shorter side. Severity 1 is the affine map alone.
    """
    amplitude, sigma, corner = (
        (0.0, 0.0, 0.08),
        (0.05, 0.2, 0.07),
        (0.08, 0.06, 0.06),
        (0.10, 0.04, 0.05),
        (0.10, 0.03, 0.03),
    )[severity - 1]
    height, width = x.shape[2:]
    side = min(height, width)
    down, right = _affine(x, corner * side, severity, noise)
    x = _sample(x, down, right, mirror=True)
    if amplitude == 0:
        return x
    pull = 2 * noise.uniform("elastic_transform/pull", (2, height, width), draw=severity) - 1
    pull = amplitude * side * filters.gaussian(pull, sigma * side, truncate=3.0, border="half_mirror")
    rows = torch.arange(height, device=x.device, dtype=x.dtype)[:, None]
    columns = torch.arange(width, device=x.device, dtype=x.dtype)
    return _sample(x, rows + pull[:, 0], columns + pull[:, 1], mirror=False)


def _affine(x: Tensor, corner: float, severity: int, noise: Noise) -> tuple[Tensor, Tensor]:
    """Where each pixel comes from, as rows and columns (N, H, W) each.

    Three corners of the square in the middle move by uniform numbers; a point's weights with regard to the moved
    corners are those of the point that it comes from, with regard to the unmoved ones.
    """
    height, width = x.shape[2:]
    reach = min(height, width) // 3
    middle = torch.tensor([width // 2, height // 2], device=x.device, dtype=x.dtype)
    unmoved = middle + reach * torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]], device=x.device, dtype=x.dtype)
    u = noise.uniform("elastic_transform/corners", (3, 2), draw=severity)
    moved = unmoved + corner * (2 * u - 1)  # (N, 3, 2), as (column, row)
    (ax, ay), (bx, by) = ((moved[:, k] - moved[:, 0]).unbind(1) for k in (1, 2))
    area = (ax * by - ay * bx)[:, None, None]
    from_column = torch.arange(width, device=x.device) - moved[:, 0, 0, None, None]
    from_row = torch.arange(height, device=x.device)[:, None] - moved[:, 0, 1, None, None]
    a = (from_column * by[:, None, None] - from_row * bx[:, None, None]) / area
    b = (from_row * ax[:, None, None] - from_column * ay[:, None, None]) / area
    column, row = (
        unmoved[0, k] + a * (unmoved[1, k] - unmoved[0, k]) + b * (unmoved[2, k] - unmoved[0, k]) for k in (0, 1)
    )
    return row, column


def _sample(x: Tensor, row: Tensor, column: Tensor, *, mirror: bool) -> Tensor:
    """Images (N, C, H, W) at other places, bilinearly; beyond the border mirrored at the last pixel or at its edge."""
    height, width = x.shape[2:]
    if mirror:
        grid = torch.stack([2 * column / max(1, width - 1) - 1, 2 * row / max(1, height - 1) - 1], 3)
    else:
        grid = torch.stack([(2 * column + 1) / width - 1, (2 * row + 1) / height - 1], 3)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=mirror)
