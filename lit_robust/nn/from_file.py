"""A network of anybody's with the weights of a file, as a network like any other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lit_robust import runs
from lit_robust.nn.standardize import Standardize

_PREFIXES = ("module.", "_orig_mod.")  # of DataParallel and of torch.compile
_NESTED = ("state_dict", "model_state_dict", "model", "net", "ema")  # where trainers put the weights


class FromFile(nn.Module):
    """Loads a state dict into a network, and standardises its images if it expects that.

    The weights are looked for in the file itself and under the names that trainers use; the prefixes `module.` and
    `_orig_mod.` are removed.

    Args:
        network: The network, such as `torchvision.models.resnet18` or a class of your own.
        file: A file that `torch.save` wrote; only tensors and plain values are loaded.
        keys: What the beginnings of names become: `{"backbone.": "", "fc.": "head."}`. The longest that fits counts.
        mean: Mean of each channel that the network was trained with, for images in [0, 1]; None for no standardisation.
        std: Standard deviation of each channel; with `mean`.

    Raises:
        UserError: If the file cannot be read safely, its weights are not the network's, or `mean` and `std` do not fit.
    """

    def __init__(
        self,
        network: nn.Module,
        file: str,
        keys: Mapping[str, str] | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        content = runs.load_checkpoint(Path(file))
        runs.load_weights(network, _renamed(_weights(content), keys or {}), file)
        self.network = network
        self.standardize = nn.Identity() if mean is std is None else Standardize(mean or (), std or ())

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images in [0, 1], (N, classes)."""
        logits: Tensor = self.network(self.standardize(x))
        return logits


def _weights(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """The state dict in a file's content, without the prefixes of wrappers."""
    state = next((content[name] for name in _NESTED if isinstance(content.get(name), Mapping)), content)
    while prefix := next((p for p in _PREFIXES if state and all(key.startswith(p) for key in state)), None):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def _renamed(state: Mapping[str, Any], keys: Mapping[str, str]) -> dict[str, Any]:
    renamed = {}
    for key, value in state.items():
        old = max((start for start in keys if key.startswith(start)), key=len, default=None)
        renamed[key if old is None else keys[old] + key.removeprefix(old)] = value
    return renamed
