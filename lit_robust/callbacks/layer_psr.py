"""The perturbation-to-signal ratio at the layers of a network."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from lit_robust.analysis.psr import psr, truncate_8_bit
from lit_robust.attacks import Attack
from lit_robust.attacks.decision import bound_to, wants_images
from lit_robust.attacks.minimum_norm import counted_in
from lit_robust.callbacks.array_column import Floats
from lit_robust.callbacks.layer_measurement import LayerMeasurement
from lit_robust.callbacks.measurement import TABLE, Results
from lit_robust.callbacks.psr_figure import psr_figure
from lit_robust.errors import UserError
from lit_robust.evaluation.full_block import FullBlock
from lit_robust.evaluation.protocol import describe
from lit_robust.evaluation.screening import check
from lit_robust.sampling import CHECK
from lit_robust.taps import Tap

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RatioNorm = Literal["l2", "l1", "linf"]
_P = {"l2": 2.0, "l1": 1.0, "linf": math.inf}
_BINS = 100


class LayerPSR(LayerMeasurement):
    """Perturbation-to-signal ratio at the output of layers, ‖f(x) − f(x')‖_p / ‖f(x)‖_p (dissertation, Eq. 3.1).

    The histograms of it over the images are Fig. 3.12, the means in dB Fig. 3.13. The attack runs once for each block,
    on the network that is measured; a pass over the clean and one over the perturbed images then give the ratios of all
    layers. A random network draws the same noise of its own for both.

    Args:
        attack: What perturbs the images: an untargeted attack, or noise.
        layers: Names of layers; see `LayerMeasurement`. None for every 2-D convolution.
        norms: Norms of the ratio; the first is what is printed and of what the histograms are drawn.
        eight_bit: Whether the perturbed images are truncated to 8 bits before they are measured, as those of the
            published figures: a pixel is then up to one grey level darker than the attack has made it.
        seed: Seed of the attack's noise.

    Raises:
        UserError: If the attack is targeted, or there is no norm, one is none of the three or given twice.
    """

    name = "psr"

    def __init__(
        self,
        *,
        attack: Attack,
        layers: Sequence[str] | None = None,
        norms: Sequence[RatioNorm] = ("l2", "l1", "linf"),
        eight_bit: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(layers=layers, seed=seed)
        if attack.targeted:
            raise UserError("targeted attacks need classes to reach, which LayerPSR does not have")
        if not norms or not set(norms) <= set(get_args(RatioNorm)) or len(set(norms)) < len(norms):
            raise UserError(f"expected norms of LayerPSR among l2, l1 and linf, each once, got {list(norms)}")
        self.attack = self._bound = attack
        self.norms = list(norms)
        self.eight_bit = eight_bit

    def choose(self, seen: Mapping[str, Tap]) -> list[str]:
        """All convolutions."""
        return list(seen)

    def check(self, network: nn.Module, data: Any) -> None:  # noqa: ANN401 - a data module; optional
        """Finds the layers, and refuses an attack that does not fit the network or the images.

        Raises:
            UserError: See `LayerMeasurement.check`; or if the attack's radius holds every image, or it goes through
                backward passes that the network does not have.
        """
        super().check(network, data)
        counted_in(self.attack).check_shape(tuple(data.image_shape))
        check(self.attack, network)
        if wants_images(self.attack):
            self._bound = bound_to(self.attack, data.images(train=False).x)

    def measure(self, block: FullBlock) -> dict[str, Any]:
        """The ratio of each image at each layer: a column a norm and layer, `psr <norm> <layer>`."""
        x_adv = self._bound(block.network, block.x, block.y, key=block.noise.key)
        ratios = layer_ratios(block, truncate_8_bit(x_adv) if self.eight_bit else x_adv, self.chosen, self.norms)
        columns = {f"psr {norm} {name}": ratios[name][norm] for norm in self.norms for name in self.chosen}
        return {"index": block.index, "label": block.y, **columns}

    def summarise(self, columns: dict[str, Any]) -> dict[str, Any]:
        """`layers`: for each norm of each the mean ratio, its dB with the interval of the mean, and the histogram.

        The histograms of a norm have one range, from 0 to `limits`: 1.1 times the largest 95th percentile of a layer.
        """
        limits, layers = {}, {name: dict[str, Any]() for name in self.chosen}
        for norm in self.norms:
            known = {name: _known(columns[f"psr {norm} {name}"]) for name in self.chosen}
            largest = max((float(np.percentile(values, 95)) for values in known.values() if len(values)), default=0.0)
            limits[norm] = 1.1 * largest or 1.0
            for name, values in known.items():
                layers[name][norm] = {
                    **_level(values),
                    "without_signal": len(columns["index"]) - len(values),
                    "above": int((values > limits[norm]).sum()),
                    "histogram": np.histogram(values, _BINS, (0.0, limits[norm]))[0].tolist(),
                }
        shown = {name: layer[self.norms[0]]["db"] for name, layer in layers.items()}
        return {
            "attack": describe(self.attack),
            "perturbation": str(self.attack),
            "eight_bit": self.eight_bit,
            "norms": self.norms,
            "limits": limits,
            "layers": layers,
            TABLE: {f"psr/{name}": level for name, level in shown.items() if level is not None},
        }

    @classmethod
    def draw(cls, results: Mapping[str, Results]) -> Figure:
        """Histograms of the layers below each other, and the levels in dB against the layers; see `psr_figure`."""
        return psr_figure(results)


def layer_ratios(
    block: FullBlock, perturbed: Tensor, layers: Sequence[str], norms: Sequence[RatioNorm]
) -> dict[str, dict[RatioNorm, Tensor]]:
    """The ratio of each image at the outputs of layers, (N,), by layer and norm.

    Half of a block's images and what became of them are one batch, of a full block's size, so that a layer's outputs
    are compared when it has run and none is kept: memory does not follow the number of layers, and a later layer may
    change its input in place.

    Args:
        block: The block.
        perturbed: Its images after the perturbation, (N, C, H, W).
        layers: Names of layers of its network; of one that runs several times the last run counts.
        norms: Norms of the ratios.

    Raises:
        UserError: If the logits are not finite, or the first dimension of an output is no batch.
    """
    n, half = len(block.x), (block.size + 1) // 2
    starts = [torch.arange(start, start + half, device=block.x.device) for start in range(0, n, half)]
    parts = [_ratios(block, perturbed, rows % n, layers, norms) for rows in starts]
    return {name: {norm: torch.cat([part[name][norm] for part in parts])[:n] for norm in norms} for name in layers}


def _ratios(
    block: FullBlock, perturbed: Tensor, rows: Tensor, layers: Sequence[str], norms: Sequence[RatioNorm]
) -> dict[str, dict[RatioNorm, Tensor]]:
    """As `layer_ratios`, for some rows of the block, (M,), in one pass."""
    found: dict[str, dict[RatioNorm, Tensor]] = {}
    m = len(rows)

    def compare(name: str, output: Tensor) -> None:
        if output.ndim == 0 or len(output) % (2 * m):
            raise UserError(
                f"layer {name} does not keep images apart: of {2 * m} images its output is {tuple(output.shape)}; "
                "leave it out"
            )
        found[name] = {norm: psr(output[:m], output[m : 2 * m], _P[norm]) for norm in norms}

    both = torch.cat([block.x[rows], perturbed[rows]])
    with torch.no_grad(), block.noise.rows(rows.repeat(2)).keyed(CHECK), _watching(block.network, layers, compare):
        logits: Tensor = block.network(both)
    if not logits.isfinite().all():
        raise UserError("the network returns logits that are not finite: its weights are of no use")
    return found


@contextmanager
def _watching(network: nn.Module, layers: Sequence[str], see: Any) -> Iterator[None]:  # noqa: ANN401 - a function
    def watch(name: str) -> Any:  # noqa: ANN401 - a hook
        return lambda layer, args, output: see(name, output)

    handles = [network.get_submodule(name).register_forward_hook(watch(name)) for name in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _known(values: Floats) -> Floats:
    wide = np.asarray(values, dtype=np.float64)
    return wide[np.isfinite(wide)]


def _level(values: Floats) -> dict[str, Any]:
    """What is said of the ratios of a layer, (N,); null where there is none."""
    if not len(values):
        return dict.fromkeys(("mean", "db", "interval_95_db", "median", "p95"))
    mean, error = float(values.mean()), float(values.std() / math.sqrt(len(values)))
    low, high = (_decibel(mean + side * 1.96 * error) for side in (-1, 1))
    return {
        "mean": mean,
        "db": _decibel(mean),
        "interval_95_db": None if low is None or high is None else [low, high],
        "median": float(np.median(values)),
        "p95": float(np.percentile(values, 95)),
    }


def _decibel(ratio: float) -> float | None:
    """20·log₁₀ of a ratio of norms; None where there is no level."""
    return 20 * math.log10(ratio) if ratio > 0 else None
