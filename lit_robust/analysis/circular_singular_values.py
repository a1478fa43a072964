"""All singular values of a convolution with circular padding, through the Fourier transform."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from math import ceil, pi, prod

import torch
from torch import Tensor

from lit_robust.analysis.conv_operator import ConvOperator
from lit_robust.errors import UserError

_CHUNK = 2**25  # bytes of the blocks that a thread decomposes at once


def torus_size(operator: ConvOperator) -> tuple[int, int]:
    """Size (H', W') of the output where the input is a torus.

    Args:
        operator: The convolution.

    Raises:
        UserError: If the stride does not divide the size of the input.
    """
    if any(have % step for have, step in zip(operator.size, operator.stride, strict=True)):
        raise UserError(
            f"the stride {operator.stride} does not divide the input's {operator.size[0]}x{operator.size[1]}, so with "
            "circular padding it is no convolution of a torus; take the values with zero padding (padding: zeros)"
        )
    height, width = (have // step for have, step in zip(operator.size, operator.stride, strict=True))
    return height, width


def circular_singular_values(operator: ConvOperator) -> Tensor:
    """All singular values of a convolution on a torus, in descending order (Sedghi, Gupta and Long, 2019).

    The Fourier transform turns the convolution into a block for each frequency of the output. A stride folds the
    frequencies that alias onto one another into one block: its columns are the channels at the phases of the grid, of
    which those that no tap meets are zero. Where the padding only shifts the image, as on a torus, it changes nothing.

    Filters are real, so frequencies f and −f have the same values and one of them is decomposed; those that are their
    own opposite have real blocks. Values are roots of the eigenvalues of the smaller Gram matrix in float64: each is
    right to about 1e-15 · largest² / value, never worse than about 1e-7 of the largest. Values below that are noise.

    Args:
        operator: The convolution; its padding does not matter. Work is shared by as many threads as torch has.

    Returns:
        Singular values, (min(C_out · H' · W', C_in · H · W),) for one group, in float64.

    Raises:
        UserError: If the stride does not divide the size of the input.
    """
    height, width = torus_size(operator)
    f, g = (axis.flatten() for axis in torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"))
    place, opposite = f * width + g, (-f % height) * width + (-g % width)
    real, halved = ((f[mask], g[mask]) for mask in (place == opposite, place < opposite))
    values = torch.cat([_values(operator, *real), *[_values(operator, *halved)] * 2])
    out_channels, in_channels = operator.weight.shape[0] // operator.groups, operator.weight.shape[1]
    count = operator.groups * height * width * min(out_channels, in_channels * prod(operator.stride))
    zeros = values.new_zeros(count - len(values))  # of the phases that no tap meets
    return torch.cat([values.sort(descending=True).values, zeros])


def _values(operator: ConvOperator, f: Tensor, g: Tensor) -> Tensor:
    """Singular values of the blocks at frequencies, both (F,), which are all their own opposites or all are not."""
    out_channels, in_channels, rows, columns = operator.weight.shape
    row = 2 * 8 * out_channels * max(out_channels, in_channels * min(prod(operator.stride), rows * columns))
    from threadpoolctl import threadpool_limits

    threads = torch.get_num_threads()
    chunk = max(1, min(_CHUNK // row, ceil(len(f) / threads)))
    parts = list(zip(torch.split(f, chunk), torch.split(g, chunk), strict=True)) if len(f) else []
    # NumPy's BLAS would start threads of its own in each of ours, which then wait for one another.
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(lambda part: _part_values(operator, *part), parts))
    return torch.cat([operator.weight.new_zeros(0), *found])


def _part_values(operator: ConvOperator, f: Tensor, g: Tensor) -> Tensor:
    import numpy as np

    re, im = _blocks(operator, f, g)
    if re.shape[1] > re.shape[2]:  # the Gram matrix of the columns is the smaller one
        re, im = re.mT, im.mT
    # NumPy sees that these are matrices times their own transposes, and its eigenvalues take less time than torch's.
    if not im.any():
        a = np.ascontiguousarray(re.numpy())
        gram = a @ a.swapaxes(1, 2)
    else:
        both = torch.cat([re, im], dim=2).numpy()
        across = (im @ re.mT).numpy()
        gram = np.empty(across.shape, dtype=complex)
        np.matmul(both, both.swapaxes(1, 2), out=gram.real)
        np.subtract(across, across.swapaxes(1, 2), out=gram.imag)
    return torch.from_numpy(np.linalg.eigvalsh(gram)).clamp(min=0).sqrt().flatten()


def _blocks(operator: ConvOperator, f: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """Real and imaginary parts of the blocks, (F · groups, C_out / groups, phases · C_in / groups) each."""
    height, width = torus_size(operator)
    down, down_met = _turns(operator.weight.shape[2], operator.dilation[0], operator.stride[0], height, f)
    along, along_met = _turns(operator.weight.shape[3], operator.dilation[1], operator.stride[1], width, g)
    met = down_met[:, None, :, None] & along_met[None, :, None, :]  # (p, q, k_h, k_w)
    turn = (down[:, :, None] + along[:, None, :])[:, None, None]
    out_channels, in_channels = operator.weight.shape[:2]
    taps = operator.weight.flatten(2).movedim(2, 0).flatten(1)  # (k_h · k_w, C_out · C_in / groups)

    def blocks(wave: Tensor) -> Tensor:
        some = (wave * met).flatten(3).flatten(1, 2) @ taps  # (F, phases, C_out · C_in / groups)
        shape = (len(f), some.shape[1], operator.groups, out_channels // operator.groups, in_channels)
        return some.view(shape).permute(0, 2, 3, 1, 4).flatten(3).flatten(0, 1)

    own = bool(((2 * f) % height == 0).all()) and bool(((2 * g) % width == 0).all())
    return blocks(turn.cos()), blocks(torch.zeros_like(turn) if own else turn.sin())


def _turns(taps: int, dilation: int, stride: int, size: int, at: Tensor) -> tuple[Tensor, Tensor]:
    """By how much each tap is turned at frequencies (F,), in radians, (F, taps), and which phase of the grid it meets.

    The phases, (phases, taps), are those that any tap meets.
    """
    offset = torch.arange(taps) * dilation
    phase, shift = offset % stride, offset // stride
    met = torch.tensor(sorted(set(phase.tolist())))
    turn = (torch.outer(at, shift) % size).double() * (2 * pi / size)
    return turn, phase == met[:, None]
