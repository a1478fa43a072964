"""What a sparse encoder makes of an image, stage by stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lit_robust.callbacks.array_column import packed, rounded, unpacked
from lit_robust.callbacks.measurement import TABLE, Measurement, Results
from lit_robust.errors import UserError
from lit_robust.evaluation.full_block import FullBlock
from lit_robust.nn.code_activation import CodeActivation
from lit_robust.nn.code_stages import code_stages, sparse_encoder

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STEEPNESS = (2, 4, 8, 32)  # of the smooth activations in Fig. B.2
_NAMES = {"projection": "projection", "top": "largest T", "dropout": "dropout", "activation": "activation"}


class SparseCodes(Measurement):
    """Entries of the code that each stage of the encoder leaves (dissertation, Fig. 4.11), and its activation (B.2).

    A row of `sparse_codes.parquet` is an image: the mean number of entries that are not 0 at a patch after each stage,
    and the share of them that is negative at last. The picture shows one row of patches of one image.

    Args:
        image: Position in the test set of the image that is shown.
        atoms: How many atoms are shown, those of the largest coefficients.
        seed: Seed of the encoder's noise.

    Raises:
        UserError: If the position is negative, or no atom is shown.
    """

    name = "sparse_codes"

    def __init__(self, *, image: int = 0, atoms: int = 60, seed: int = 0) -> None:
        super().__init__(seed=seed)
        if image < 0 or atoms < 1:
            raise UserError(f"expected image of 0 or more and atoms of at least 1, got {image} and {atoms}")
        self.image = image
        self.atoms = atoms
        self._activation: CodeActivation | None = None

    def check(self, network: nn.Module, data: Any) -> None:  # noqa: ANN401 - a data module; optional
        """Refuses a network without a sparse encoder, or with several."""
        self._activation = sparse_encoder(network).activation

    def measure(self, block: FullBlock) -> dict[str, Any]:
        """`entries <stage>` at a patch, `negative` share of the last stage's, and `shown` of the image as bytes."""
        stages = code_stages(sparse_encoder(block.network), block.x, block.noise)
        *_, last = stages.values()
        entries = {f"entries {name}": _entries(code) / code[0, 0].numel() for name, code in stages.items()}
        negative = (last < 0).flatten(1).sum(1) / _entries(last).clamp(min=1)
        shown = [self._shown(stages, row) if i == self.image else b"" for row, i in enumerate(block.index.tolist())]
        return {"index": block.index, "label": block.y, **entries, "negative": negative, "shown": shown}

    def summarise(self, columns: dict[str, Any]) -> dict[str, Any]:
        """`entries` at a patch after each stage; `shown`: a row of patches of the image, atoms × patches, by stage.

        Raises:
            UserError: If the image was not tested.
        """
        content = next((each for each in columns["shown"] if each), None)
        if content is None:
            raise UserError(f"SparseCodes: image {self.image} is not among those that were tested")
        names = [name.removeprefix("entries ") for name in columns if name.startswith("entries ")]
        entries = {name: float(columns[f"entries {name}"].mean()) for name in names}
        activation = self._activation
        return {
            "image": self.image,
            "entries": entries,
            "shown": {name: rounded(code) for name, code in zip(names, unpacked(content), strict=True)},
            "activation": None if activation is None else {"eps": float(activation.eps), "beta": activation.beta},
            TABLE: {
                **{f"sparse_codes/entries a patch, {_NAMES[name]}": value for name, value in entries.items()},
                "sparse_codes/negative": float(columns["negative"].mean()),
            },
        }

    @classmethod
    def draw(cls, results: Mapping[str, Results]) -> Figure:
        """A row a run: the stages, and at the end the activation with its smooth versions."""
        from matplotlib.figure import Figure

        widths = [1.0] * max(len(result["shown"]) for result in results.values()) + [1.6]
        size = (1.0 + 2.2 * sum(widths), 0.6 + 3.4 * len(results))
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(len(results), len(widths), squeeze=False, width_ratios=widths)
        for axes, (run, result) in zip(grid, results.items(), strict=True):
            for axis in axes:
                axis.set_visible(False)
            for axis, (name, code) in zip(axes, result["shown"].items(), strict=False):
                _draw_stage(axis, code, f"{_NAMES[name]}\n{result['entries'][name]:.3g} entries a patch")
            axes[0].set_ylabel(f"{run}: atom, by its largest coefficient")
            if result["activation"] is not None:
                _draw_activation(axes[-1], CodeActivation(**result["activation"]))
        return figure

    def _shown(self, stages: Mapping[str, Tensor], row: int) -> bytes:
        """The middle row of patches after each stage, (stages, atoms, patches), as bytes."""
        codes = torch.stack([code[row, :, code.shape[2] // 2] for code in stages.values()])
        largest = codes[0].abs().amax(1).argsort(descending=True, stable=True)[: self.atoms]
        return packed(codes[:, largest])


def _entries(code: Tensor) -> Tensor:
    """Entries that are not 0 in each code, (N,)."""
    return (code != 0).flatten(1).sum(1)


def _draw_stage(axis: Axes, code: Any, title: str) -> None:  # noqa: ANN401 - numbers in nested lists
    import numpy as np

    values = np.asarray(code, dtype=float)
    limit = float(np.abs(values).max()) or 1.0
    axis.set_visible(True)
    axis.imshow(values, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
    axis.set_title(title, fontsize=9)
    axis.set_xlabel("patch")


def _draw_activation(axis: Axes, activation: CodeActivation) -> None:
    v = torch.linspace(-0.75, 0.75, 601)
    axis.set_visible(True)
    axis.plot(v, activation(v, torch.ones(1)), color="black", label="activation")
    j = activation.threshold
    for s in _STEEPNESS:
        axis.plot(v, 0.5 * (torch.tanh(s * (v - j)) + torch.tanh(s * (v + j))), label=f"smooth({s})")
    axis.set_title("activation over $\\|d\\|_1$, and its backward passes", fontsize=9)
    axis.set_xlabel("coefficient over $\\|d\\|_1$")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
