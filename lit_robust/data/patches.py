"""Random patches of images."""

from __future__ import annotations

from torch import Tensor

from lit_robust.errors import UserError
from lit_robust.sampling import Noise


def random_patches(x: Tensor, noise: Noise, *, patch: int, stride: int = 1, count: int = 1) -> Tensor:
    """Square patches at random places of a grid, drawn with replacement; only they are copied.

    Args:
        x: Images (N, C, H, W).
        noise: One noise stream an image.
        patch: Side of the patches in pixels, k.
        stride: Distance of neighbouring places of the grid in pixels.
        count: Patches an image.

    Returns:
        (N·count, C, k, k), those of the first image first.

    Raises:
        UserError: If the patches are larger than the images, or a number is below 1.
    """
    if min(patch, stride, count) < 1 or patch > min(x.shape[2:]):
        raise UserError(
            f"expected patches that fit into images of {x.shape[2]} x {x.shape[3]} pixels, at least one of them and a "
            f"stride of at least 1, got patch {patch}, count {count}, stride {stride}"
        )
    grid = x.unfold(2, patch, stride).unfold(3, patch, stride)  # (N, C, rows, columns, k, k), a view
    uniform = noise.uniform("patch", (count, 2))
    row, column = ((uniform[..., i] * grid.shape[2 + i]).long() for i in (0, 1))
    image = row.new_tensor(range(len(x)))[:, None].expand(-1, count)
    patches: Tensor = grid[image.flatten(), :, row.flatten(), column.flatten()]
    return patches


def centred(patches: Tensor) -> Tensor:
    """Patches (M, C, k, k) without their means, each over all its pixels and channels."""
    return patches - patches.mean((1, 2, 3), keepdim=True)
