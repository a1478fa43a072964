"""Accuracy under common corruptions."""

from __future__ import annotations

import difflib
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lit_robust.callbacks.corruption_figure import accuracy_dots
from lit_robust.callbacks.corruption_summary import load_baseline, mean_corruption_error, summarise_corruptions
from lit_robust.callbacks.measurement import TABLE, Measurement, Results
from lit_robust.corruptions import CORRUPTIONS, SEVERITIES
from lit_robust.data.cifar10_c import CIFAR10C
from lit_robust.errors import UserError
from lit_robust.evaluation.full_block import FullBlock

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class CorruptionAccuracy(Measurement):
    """Accuracy under the common corruptions of Hendrycks and Dietterich (2019), of any network on any data.

    The corruptions are those of `lit_robust.corruptions`, and the figures are called `<data>-C-like`; with `folder` the
    images are those of the published CIFAR-10-C. A row of `corruptions.parquet` is a sample, with one column a
    condition, `<corruption>/<severity>`, that says whether its prediction is right.

    Args:
        corruptions: Names of `lit_robust.corruptions.CORRUPTIONS`; None for all 19.
        severities: Severities, 1 to 5.
        folder: Folder of the published CIFAR-10-C (`<corruption>.npy` and `labels.npy`), for CIFAR-10 alone; None for
            own corruptions.
        baseline: `corruptions.json` of another network, whose errors are the unit of the mean corruption error (mCE);
            None for no mCE.
        seed: Seed of the corruptions' noise.

    Raises:
        UserError: For an unknown corruption, another severity, or none or the same one twice.
    """

    name = "corruptions"

    def __init__(
        self,
        *,
        corruptions: Sequence[str] | None = None,
        severities: Sequence[int] = SEVERITIES,
        folder: str | None = None,
        baseline: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(seed=seed)
        chosen = list(CORRUPTIONS) if corruptions is None else list(corruptions)
        _check_names(chosen)
        if not severities or len(set(severities)) < len(severities) or not set(severities) <= set(SEVERITIES):
            raise UserError(f"expected severities from 1 to 5, each once, got {list(severities)}")
        self.corruptions = [name for name in CORRUPTIONS if name in chosen]
        self.severities = sorted(severities)
        self.folder = folder
        self.baseline = baseline
        self._files: CIFAR10C | None = None
        self._baseline: dict[str, Any] | None = None
        self._data: dict[str, Any] = {}

    def check(self, network: nn.Module, data: Any) -> None:  # noqa: ANN401 - a data module; optional
        """Opens the files and the baseline.

        Raises:
            UserError: If official files are missing, of another shape or of other data, or the baseline is of another
                kind, lacks conditions or is of other data.
        """
        y = data.images(train=False).y
        self._data = {
            "name": data.name,
            "image_shape": list(data.image_shape),
            "test_images": len(y),
            "labels_crc32": zlib.crc32(y.numpy().tobytes()),
        }
        if self.folder is not None:
            if data.name != "CIFAR10" or tuple(data.image_shape) != (3, 32, 32):
                raise UserError(
                    f"CIFAR-10-C holds the test images of CIFAR10 at (3, 32, 32), and the data are {data.name} at "
                    f"{tuple(data.image_shape)}; without `folder` the corruptions are drawn, for any data"
                )
            self._files = CIFAR10C(self.folder, self.corruptions)
            self._files.check_labels(y)
        if self.baseline is not None:
            self._baseline = load_baseline(self.baseline, self._description())

    def measure(self, block: FullBlock) -> dict[str, Any]:
        """One row a sample: whether it is right as it is (`clean`) and under each condition."""
        columns = {"index": block.index, "label": block.y, "clean": _right(block, block.x)}
        for name in self.corruptions:
            for severity in self.severities:
                columns[f"{name}/{severity}"] = _right(block, self._corrupted(block, name, severity))
        return columns

    def summarise(self, columns: dict[str, Any]) -> dict[str, Any]:
        """Accuracy for each corruption and severity, their means, and the mean corruption error."""
        results = {**self._description(), **summarise_corruptions(columns, self.corruptions, self.severities)}
        if self._baseline is not None:
            results["mce"] = mean_corruption_error(results, self._baseline, str(self.baseline))
            if results["mce"]["value"] is not None:
                results[TABLE] = {"corruptions/mCE": results["mce"]["value"], **results[TABLE]}
        return results

    @classmethod
    def draw(cls, results: Mapping[str, Results]) -> Figure:
        """Mean accuracy for each corruption and run, in groups.

        Raises:
            UserError: If the runs were measured under different corruptions.
        """
        return accuracy_dots(results)

    def _description(self) -> dict[str, Any]:
        return {
            "benchmark": f"{self._data['name']}-C-like" if self.folder is None else "CIFAR-10-C",
            "source": "C-like (own implementation, not CIFAR-10-C)" if self.folder is None else "CIFAR-10-C",
            "dataset": self._data,
            "severities": self.severities,
            "names": self.corruptions,
        }

    def _corrupted(self, block: FullBlock, name: str, severity: int) -> Tensor:
        if self._files is None:
            return CORRUPTIONS[name](block.x, severity, block.noise)
        images = self._files.images(name, severity, block.index).to(block.x)
        return images / images.new_full((), 255)


def _right(block: FullBlock, x: Tensor) -> Tensor:
    logits = block.logits(x)
    return (logits.argmax(1) == block.y) & torch.isfinite(logits).all(1)


def _check_names(names: Sequence[str]) -> None:
    for name in names:
        if name not in CORRUPTIONS:
            near = difflib.get_close_matches(name, CORRUPTIONS, n=3)
            advice = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(CORRUPTIONS)}"
            raise UserError(f"no corruption is called {name!r}; {advice}")
    if not names or len(set(names)) < len(names):
        raise UserError(f"expected corruptions, each once, got {list(names)}; null stands for all {len(CORRUPTIONS)}")
