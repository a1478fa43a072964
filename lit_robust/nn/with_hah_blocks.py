"""Any convolutional network with HaH blocks in the place of its first convolutions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from torch import Tensor, nn

from lit_robust.errors import UserError
from lit_robust.nn.divisive_norm import DivisiveNorm
from lit_robust.nn.hah_block import HaHBlock, NormCallable, ThresholdCallable, hah_blocks
from lit_robust.nn.threshold import FractionThreshold
from lit_robust.nn.triples import Triple, find_triples
from lit_robust.nn.weight_norm_conv import WeightNormConv2d


class WithHaHBlocks(nn.Module):
    """A network whose first convolutions, each with its normalisation and activation, are HaH blocks.

    What is a triple of convolution, normalisation and activation, and in what order they run, is seen in a trial of the
    network; see `lit_robust.nn.triples.find_triples`. The convolution is replaced by a HaH block with a new
    convolution of the same geometry without bias, the normalisation by the identity. The activation stays and changes
    nothing, since a HaH block gives no negative numbers. A convolution whose output, normalised or not, goes into an
    addition is left as it is: a sparse map cannot be a residual.

    Args:
        network: Images to logits, or any other module made of 2-D convolutions. It is changed in place.
        blocks: How many HaH blocks, in the order of execution.
        norm: As for `HaHBlock`.
        threshold: As for `HaHBlock`.
        image_shape: (C, H, W) of what the network takes. None follows the data in a config, which has to be overridden
            behind a front end that changes the shape; outside a config it is the network's `in_channels`, or 3, and
            32×32 pixels.

    Attributes:
        network: The network.
        converted: Names of the HaH blocks in the network, in the order of execution.
        left: Why each convolution that cannot become a HaH block is left, by name.

    Raises:
        UserError: If there are fewer triples than `blocks`, or the network has HaH blocks already or does not take such
            images.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        blocks: int = 6,
        norm: NormCallable = DivisiveNorm,
        threshold: ThresholdCallable | None = FractionThreshold,
        image_shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if there := hah_blocks(network):
            raise UserError(f"{type(network).__name__} has HaH blocks already: {', '.join(name for name, _ in there)}")
        shape = (getattr(network, "in_channels", 3), 32, 32) if image_shape is None else image_shape
        triples, left = find_triples(network, shape)
        single = [triple.name for triple in triples if threshold is not None and triple.map_size == (1, 1)]
        triples = [triple for triple in triples if triple.name not in single]
        self.left: Mapping[str, str] = left | dict.fromkeys(single, "1x1 maps under a threshold")
        if not 0 <= blocks <= len(triples):
            raise UserError(
                f"{type(network).__name__} has {len(triples)} convolutions that can become HaH blocks, seen on "
                f"{'x'.join(map(str, shape))} images; expected blocks of 0 to that, got {blocks}. Left are "
                f"{_listed(self.left)}"
            )
        self.network = network
        self.converted = [triple.name for triple in triples[:blocks]]
        for position, triple in enumerate(triples[:blocks], start=1):
            block = HaHBlock(_weight_normalised(triple.conv), norm=norm, threshold=threshold)
            block.position = position
            _convert(network, triple, block.to(triple.conv.weight).train(triple.conv.training))

    def forward(self, x: Tensor) -> Tensor:
        """What the network makes of images (N, C, H, W) in [0, 1]: logits (N, classes)."""
        return cast(Tensor, self.network(x))

    def extra_repr(self) -> str:
        """What was converted and what was left, for `print(model)`."""
        return f"converted: {', '.join(self.converted) or 'none'}\nleft: {_listed(self.left)}"


class _Copy(nn.Module):
    """The identity as a new tensor, for an activation to overwrite."""

    def forward(self, x: Tensor) -> Tensor:
        return x.clone()


def _weight_normalised(conv: nn.Conv2d) -> WeightNormConv2d:
    return WeightNormConv2d(
        conv.in_channels,
        conv.out_channels,
        cast(Any, conv.kernel_size),
        stride=conv.stride,
        padding=conv.padding,
        dilation=conv.dilation,
        groups=conv.groups,
        padding_mode=conv.padding_mode,
    )


def _convert(network: nn.Module, triple: Triple, block: HaHBlock) -> None:
    _replace(network, triple.conv, block)
    if triple.in_place and triple.activation is not None:
        # A threshold keeps its output for the backward pass.
        triple.activation.inplace = cast(Any, False)
    if triple.norm is not None:
        _replace(network, triple.norm, _Copy() if triple.in_place and triple.activation is None else nn.Identity())


def _replace(network: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Puts a module in another's place, under each name that it has."""
    for parent in list(network.modules()):
        for name in [name for name, child in parent._modules.items() if child is old]:
            setattr(parent, name, new)


def _listed(left: Mapping[str, str]) -> str:
    """Names by reason."""
    reasons: dict[str, list[str]] = {}
    for name, reason in left.items():
        reasons.setdefault(reason, []).append(name)
    return "; ".join(f"{', '.join(names)} ({reason})" for reason, names in reasons.items()) or "none"
