"""Random numbers that belong to a sample: pure functions of (key, purpose, restart, step, draw).

A sample's noise depends on neither its batch nor its rank, a resumed run draws what an uninterrupted one would have
drawn, and the bits are the same on every device, because they come from a counter-based hash in integer arithmetic.
The hash is the finaliser of SplitMix64 (Steele, Lea and Flood, 2014).
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from itertools import count

import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as int64
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB
_DIGITS = {torch.float64: 53, torch.float32: 24, torch.float16: 11, torch.bfloat16: 8}  # exact in the mantissa
UPDATE, CHECK, BETWEEN = -3, -2, -1  # steps of forward passes outside a search: training, final check, comparison
_RESTART_BASE = 1009  # restarts of restarts stay distinct below this count


def _xor_shift_(h: Tensor, bits: int) -> Tensor:
    # torch shifts int64 arithmetically; the mask makes the shift logical.
    return h.bitwise_xor_((h >> bits).bitwise_and_((1 << (64 - bits)) - 1))


def _mix_(h: Tensor) -> Tensor:
    """Hashes in place, which takes half the time of fresh tensors."""
    _xor_shift_(h, 30).mul_(_MIX_1)
    _xor_shift_(h, 27).mul_(_MIX_2)
    return _xor_shift_(h, 31)


def _wrap(value: int) -> int:
    """The int64 that has the low 64 bits of `value`."""
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)


def _fold(h: Tensor, value: int) -> Tensor:
    return _mix_(h + _wrap((value + 1) * _GOLDEN))


def keys(index: Tensor, *, seed: int = 0, epoch: int = 0) -> Tensor:
    """Noise keys of samples.

    Args:
        index: Positions of the samples in their data set, (N,) int64.
        seed: Seed of the run or the evaluation.
        epoch: Training passes the epoch, so that an image gets new noise every epoch; evaluation leaves it 0.

    Returns:
        One key a sample, (N,) int64.
    """
    return _fold(_fold(_mix_(index.long() + _GOLDEN), seed), epoch)


def run_seed() -> int:
    """The seed of the run as Lightning's `seed_everything` leaves it in the environment, or 0."""
    return int(os.environ.get("PL_GLOBAL_SEED", "0"))


def fresh_keys(n: int, device: torch.device | str = "cpu") -> Tensor:
    """Keys drawn from torch's global generator, (n,) int64, for callers that have no sample index."""
    return torch.randint(-(1 << 63), (1 << 63) - 1, (n,), dtype=torch.int64).to(device)


@dataclass(frozen=True, eq=False)
class Noise:
    """The noise streams of a batch, one a sample.

    Args:
        key: One stream a sample, (N,) int64.
        restart: Restart that the draws belong to.
    """

    key: Tensor
    restart: int = 0

    def restarted(self, restart: int) -> Noise:
        """The streams of a restart; restart 0 of a search that is not itself a restart draws what the search draws."""
        return replace(self, restart=self.restart * _RESTART_BASE + restart)

    def rows(self, keep: Tensor) -> Noise:
        """The streams of some of the samples; `keep` is a mask or an index, (N,) or (M,)."""
        return replace(self, key=self.key[keep])

    def _bits(self, purpose: str, shape: Sequence[int], step: int, draw: int) -> Tensor:
        stream = self.key
        for part in (zlib.crc32(purpose.encode()), self.restart, step, draw):
            stream = _fold(stream, part)
        counter = torch.arange(1, math.prod(shape) + 1, device=stream.device) * _GOLDEN
        return _mix_(stream[:, None] + counter).view(len(stream), *shape)

    def uniform(
        self, purpose: str, shape: Sequence[int], *, step: int = 0, draw: int = 0, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Uniform numbers in [0, 1).

        Args:
            purpose: What the numbers are for; different purposes are independent.
            shape: Shape of one sample's numbers.
            step: Step of an iterative search.
            draw: Number of the draw within a step.
            dtype: float32 (24 random bits) or float64 (53).

        Returns:
            (N, *shape).
        """
        digits = _DIGITS[dtype]
        bits = self._bits(purpose, shape, step, draw)
        return ((bits >> (64 - digits)) & ((1 << digits) - 1)).to(dtype) * 2.0**-digits

    def normal(
        self, purpose: str, shape: Sequence[int], *, step: int = 0, draw: int = 0, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Standard normal numbers (Box and Muller, 1958), (N, *shape); arguments as for `uniform`."""
        # In float64, where the device has it, so that a last-bit difference between the logarithms of two devices, or
        # of two batch shapes, is rounded away.
        wide = torch.float32 if self.key.device.type == "mps" else torch.float64
        u = self.uniform(purpose + "/radius", shape, step=step, draw=draw, dtype=wide)
        v = self.uniform(purpose + "/angle", shape, step=step, draw=draw, dtype=wide)
        return ((-2.0 * torch.log1p(-u)).sqrt() * torch.cos(2.0 * math.pi * v)).to(dtype)

    @contextmanager
    def keyed(self, step: int = 0, draw: int = 0) -> Iterator[None]:
        """Random layers that run inside draw from these streams, at this step and draw."""
        token = _current.set(_Forward(self, step, draw))
        try:
            yield
        finally:
            _current.reset(token)


@dataclass(frozen=True, eq=False)
class _Forward:
    """One forward pass under `keyed`: its streams, and a count that tells its random layers apart."""

    noise: Noise
    step: int
    draw: int
    layers: Iterator[int] = field(default_factory=count)

    def purpose(self) -> str:
        return f"layer {next(self.layers)}"


_current: ContextVar[_Forward | None] = ContextVar("lit_robust_noise", default=None)


def keyed(key: Tensor) -> AbstractContextManager[None]:
    """Context in which random layers draw from the streams of `key`, (N,) int64."""
    return Noise(key).keyed()


@contextmanager
def repeated(n: int) -> Iterator[None]:
    """Context in which the batch is n copies of that which was keyed, one after the other, each with its own noise."""
    forward = _current.get()
    if forward is None:
        yield
        return
    key = forward.noise.key
    copies = torch.cat([key, *(_fold(key, copy) for copy in range(1, n))])
    token = _current.set(replace(forward, noise=replace(forward.noise, key=copies)))
    try:
        yield
    finally:
        _current.reset(token)


def current() -> Noise | None:
    """The streams that random layers draw from now, or None outside `keyed`."""
    forward = _current.get()
    return None if forward is None else forward.noise


def layer_uniform(x: Tensor) -> Tensor:
    """Uniform numbers of the shape of `x` for a random layer: keyed inside `keyed`, from torch's generator outside.

    Args:
        x: Any tensor whose first dimension is the batch, (N, ...).

    Raises:
        ValueError: If the batch is not the one that `keyed` was entered for.
    """
    if (forward := _layer(x)) is None:
        return torch.rand_like(x)
    return forward.noise.uniform(forward.purpose(), x.shape[1:], step=forward.step, draw=forward.draw, dtype=x.dtype)


def layer_normal(x: Tensor) -> Tensor:
    """Standard normal numbers of the shape of `x` for a random layer; see `layer_uniform`."""
    if (forward := _layer(x)) is None:
        return torch.randn_like(x)
    return forward.noise.normal(forward.purpose(), x.shape[1:], step=forward.step, draw=forward.draw, dtype=x.dtype)


def _layer(x: Tensor) -> _Forward | None:
    forward = _current.get()
    if forward is not None and len(forward.noise.key) != len(x):
        raise ValueError(
            f"a random layer got a batch of {len(x)}, but the forward pass was keyed for {len(forward.noise.key)} "
            "samples; narrow the key together with the batch (Noise.rows)"
        )
    return forward
