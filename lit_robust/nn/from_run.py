"""The network of a run, or a layer of it, with its weights, as a network like any other."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from lit_robust import model_zoo, runs
from lit_robust.errors import UserError
from lit_robust.expectation import passes


class FromRun(nn.Module):
    """Rebuilds the network of a run from its saved config and loads its weights.

    A front end of another run is a stage like any other: the whole network of an `Autoencoder`'s run, or the first
    stage of a classifier's, `layer: stages.0`.

    Args:
        run: Run folder, or `zoo/NAME` for a model of the package.
        ckpt: `best` (the last where no best was kept), or `last`.
        frozen: Weights that do not train; the network then stays in eval mode too.
        num_classes: Classes that the network must have; None follows the data in a config.
        in_channels: Channels that it must take; None follows the data in a config.
        trained_on: Data that the run must have been trained on: the class of the data module, with the folder's name
            for an `ImageFolder`. None follows the data in a config,
            and is any outside one.
        layer: Name of the layer that is taken alone, such as `stages.0`; None for the whole network.

    Attributes:
        network: The network, or the layer.
        checkpoint: Path of its weights.

    Raises:
        UserError: If the run has no checkpoint, or has another architecture, data or class count than asked for, or its
            network has no such layer.
    """

    def __init__(
        self,
        run: str,
        ckpt: str = "best",
        frozen: bool = True,
        num_classes: int | None = None,
        in_channels: int | None = None,
        trained_on: str | None = None,
        layer: str | None = None,
    ) -> None:
        super().__init__()
        if ckpt not in ("best", "last"):
            raise UserError(f"FromRun: expected ckpt to be best or last, got {ckpt!r}")
        folder = model_zoo.readable(run)
        config = runs.load_config(folder)
        data = runs.data_name(config["data"])
        if trained_on is not None and data != trained_on:
            raise UserError(
                f"{run} was trained on {data}, not on {trained_on}; set trained_on: {data} if that is meant"
            )
        path = runs.checkpoint(folder, None if ckpt == "best" else ckpt)
        if path is None:
            raise UserError(f"{run} has no {ckpt} checkpoint; train it first")
        spec = config["model"]["init_args"]["network"]
        if layer is None:  # of a layer, the shapes say whether it fits
            _compare(run, spec, {"num_classes": num_classes, "in_channels": in_channels})
        network = _build(spec)
        self.checkpoint = path
        runs.load_weights(network, runs.network_weights(runs.load_checkpoint(path)), path)
        self.network = network if layer is None else _layer(network, layer, run)
        self.frozen = frozen
        if frozen:
            self.network.requires_grad_(False)
            self.network.eval()

    def train(self, mode: bool = True) -> FromRun:
        """Sets the mode; a frozen network stays in eval mode."""
        super().train(mode)
        if self.frozen:
            self.network.eval()
        return self

    def extra_repr(self) -> str:
        """The run's checkpoint, for `print(model)` and for results."""
        return str(self.checkpoint)

    def forward(self, x: Tensor) -> Tensor:
        """What the network or the layer makes of images (N, C, H, W): logits (N, classes), or what a layer gives."""
        out: Tensor = self.network(x)
        return out

    def passes(self, x: Tensor, n: int) -> Tensor:
        """Outputs of n forward passes in a row, (n·N, ...), those of the first pass first; see `passes`."""
        return passes(self.network, x, n)


def _layer(network: nn.Module, name: str, run: str) -> nn.Module:
    layers: dict[str, nn.Module] = dict(network.named_modules())
    if name not in layers or not name:
        first = ", ".join(each for each in layers if each and each.count(".") < 2)
        raise UserError(f"the {type(network).__name__} of {run} has no layer {name!r}; there are {first}")
    return layers[name]


def _compare(run: str, spec: dict[str, Any], wanted: dict[str, int | None]) -> None:
    for key, value in wanted.items():
        found = _values(spec, key)
        if value is not None and found and value not in found:
            raise UserError(f"the network of {run} has {key} {found[0]}, but {value} is needed here")


def _values(spec: object, key: str) -> list[int]:
    """All values of a setting in a network's config, whose parts may be networks too."""
    if isinstance(spec, list):
        return [value for part in spec for value in _values(part, key)]
    if not isinstance(spec, dict):
        return []
    own = [spec[key]] if isinstance(spec.get(key), int) else []
    return own + [value for part in spec.values() for value in _values(part, key)]


def _build(spec: dict[str, Any]) -> nn.Module:
    from jsonargparse import ArgumentParser  # slow to import, and needed only for runs

    parser = ArgumentParser()
    parser.add_argument("--network", type=nn.Module)
    config = parser.parse_object({"network": spec})
    network: nn.Module = parser.instantiate(config).network
    return network
