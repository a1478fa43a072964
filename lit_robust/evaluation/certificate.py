"""A proof, image by image, that no allowed perturbation changes the prediction.

Where every activation of a polarizing front end keeps its level on the whole ball, the classifier behind sees one and
the same code, and the prediction stands (dissertation, Proposition 1, made for each image). Where levels may change,
interval bounds of the classifier on the hull of the codes may still prove it. A network without such a front end is
certified by its bounds alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lit_robust import bounds, sampling
from lit_robust.errors import UserError
from lit_robust.nn.from_run import FromRun
from lit_robust.nn.pipeline import Pipeline
from lit_robust.nn.polarizing import PolarizingFrontEnd
from lit_robust.nn.reachable_codes import reachable_codes
from lit_robust.sampling import BETWEEN, CHECK, Noise
from lit_robust.threat import ThreatModel

_ROWS = 64  # images that are bounded at once, since convolutions in float64 unfold their input


@dataclass(frozen=True)
class Certificate:
    """What is proved about each image, for the network in float32 and every image of the threat model.

    Attributes:
        correct: Whether the prediction on the image is its label, (N,) bool.
        undecided: Activations of the polarizing front end whose level may change, (N,), or None if there is none.
        margin: Lower bound of z_y − max over j ≠ y of z_j, (N,) float64.
    """

    correct: Tensor
    undecided: Tensor | None
    margin: Tensor

    @property
    def by_codes(self) -> Tensor:
        """Correct, and proved since no activation can change its level, (N,) bool."""
        return torch.zeros_like(self.correct) if self.undecided is None else self.correct & (self.undecided == 0)

    @property
    def by_intervals(self) -> Tensor:
        """Correct, and proved by the margin's bound, (N,) bool."""
        return self.correct & (self.margin > 0)

    @property
    def certified(self) -> Tensor:
        """Correct and proved to stay so in either way, (N,) bool; the mean is the certified accuracy."""
        return self.by_codes | self.by_intervals


@dataclass(frozen=True)
class Certifiable:
    """A network taken apart for its bounds; `certifiable` makes one.

    Attributes:
        front_end: The polarizing front end, or None.
        classifier: What comes behind it.
    """

    front_end: PolarizingFrontEnd | None
    classifier: nn.Module

    def bound(
        self, x: Tensor, y: Tensor, threat: ThreatModel, *, rounding: float = 0.0
    ) -> tuple[Tensor | None, Tensor]:
        """Undecided activations, (N,) or None, and lower bounds of z_y − z_j, (N, classes), 0 at j = y.

        The margins can be differentiated in the weights. In L2 and L1 a network without front end is bounded on the
        pixel box around the ball.

        Args:
            x: Images in [0, 1], (N, C, H, W), in the precision that the bounds are to have.
            y: Labels, (N,).
            threat: What may be changed.
            rounding: As for `bounds.interval`.

        Raises:
            UserError: If the network has an operation without a rule, or the threat model is L0 or has no radius.
        """
        if self.front_end is not None:
            codes = reachable_codes(self.front_end, x, threat)
            least = bounds.margins(self.classifier, codes.lower, codes.upper, y, rounding=rounding)
            return codes.undecided, least
        if threat.norm == "l0":
            raise UserError("interval bounds are for linf, l2, l1 and box, got l0, which bounds no pixel's change")
        # What `ThreatModel.contains` tolerates is allowed too.
        eps = float(threat.exact) + (1e-6 * max(1.0, float(threat.exact)) if rounding else 0.0)
        lower, upper = (x - eps).clamp(min=0), (x + eps).clamp(max=1)
        return None, bounds.margins(self.classifier, lower, upper, y, rounding=rounding)

    def least_margins(self, x: Tensor, y: Tensor, threat: ThreatModel) -> Tensor:
        """Lower bounds of the margin to the nearest wrong class of the float32 network, (N,) float64.

        Args:
            x: As for `certify`.
            y: As for `certify`.
            threat: As for `certify`.

        Raises:
            UserError: As for `bound`.
        """
        least = [x.new_zeros(0, dtype=torch.float64)]
        with torch.no_grad():
            for images, labels in zip(torch.split(_exact(x), _ROWS), torch.split(y, _ROWS), strict=True):
                if len(images):
                    _, margins = self.bound(images, labels, threat, rounding=bounds.FLOAT32)
                    least.append(margins.scatter(1, labels[:, None], torch.inf).amin(1))
        return torch.cat(least)

    def undecided(self, x: Tensor, threat: ThreatModel) -> Tensor | None:
        """Activations whose level may change, (N,), or None without a front end; arguments as for `certify`."""
        if self.front_end is None:
            return None
        counts = [torch.zeros(0, dtype=torch.int64, device=x.device)]
        with torch.no_grad():
            for images in torch.split(_exact(x), _ROWS):
                counts.append(reachable_codes(self.front_end, images, threat).undecided)
        return torch.cat(counts)


def certify(network: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel) -> Certificate:
    """Proves what can be proved about each image.

    Bounds are computed in float64; those of z are widened by 1e-5, and those of every layer behind by what rounding can
    move it. So they hold for the network as it is deployed, wherever it is computed in float32 (TF32 and 16 bits are
    not).

    Args:
        network: Images in [0, 1] to logits, in eval mode: `Pipeline([front_end, classifier])` with a
            `PolarizingFrontEnd`, or any network that has interval bounds.
        x: Images in [0, 1], (N, C, H, W).
        y: Labels, (N,).
        threat: What may be changed, by any radius.

    Raises:
        UserError: If the network is random or in train mode, its front end does not quantise, an operation has no
            interval bounds, or the threat model is L0 or has no radius.
    """
    parts = certifiable(network)
    check_certifiable(network, x)
    with torch.no_grad():
        correct = network(x).argmax(1) == y
    return Certificate(correct, parts.undecided(x, threat), parts.least_margins(x, y, threat))


def certifiable(network: nn.Module) -> Certifiable:
    """Takes apart a `Pipeline` that begins with a polarizing front end, or leaves another network whole.

    Args:
        network: Images in [0, 1] to logits; it, or a stage of it, may be one of `FromRun`.

    Raises:
        UserError: If a polarizing front end stands where its box of pixels is not known, or nothing comes behind it.
    """
    first, *rest = _stages(network)
    front_end = first if isinstance(first, PolarizingFrontEnd) else None
    if front_end is not None and not rest:
        raise UserError("a certificate is about a class: expected a classifier behind the front end, got none")
    classifier = network if front_end is None else Pipeline(rest)
    if any(isinstance(module, PolarizingFrontEnd) for module in classifier.modules()):
        raise UserError(
            "a certificate needs the polarizing front end to see the image itself, and "
            f"{type(network).__name__} has one further inside; write Pipeline: [front end, classifier]"
        )
    return Certifiable(front_end, classifier)


def check_certifiable(network: nn.Module, x: Tensor) -> None:
    """Refuses a network that a certificate cannot be about, by trying it on images.

    Args:
        network: Images in [0, 1] to logits.
        x: Images in [0, 1], (N, C, H, W); a few will do.

    Raises:
        UserError: If it is in train mode, in 16 bits or random, or its front end does not quantise.
    """
    training = next((name or "network" for name, module in network.named_modules() if module.training), None)
    if training is not None:
        raise UserError(f"a certificate is about what is deployed, and {training} is in train mode; call .eval() first")
    rough = next((n for n, p in network.named_parameters() if p.dtype not in (torch.float32, torch.float64)), None)
    if rough is not None:
        raise UserError(f"a certificate is about a network in float32, and {rough} is in 16 bits; call .float() first")
    noise = Noise(sampling.keys(torch.arange(len(x), device=x.device)))
    passes = []
    with torch.no_grad():
        for step in (CHECK, BETWEEN):
            with noise.keyed(step):
                passes.append(network(x))
    if not torch.equal(*passes):
        raise UserError(
            f"{type(network).__name__} is random, since two passes over the same images differ, and a certificate is "
            "about one function; leave the random layers out, or attack the network over several draws (EOT)"
        )
    front_end = certifiable(network).front_end
    if front_end is not None:
        _check_codes(front_end, x)


def _check_codes(front_end: PolarizingFrontEnd, x: Tensor) -> None:
    """Refuses a front end whose code on the images themselves is not among those that the certificate allows it."""
    with torch.no_grad():
        codes, code = reachable_codes(front_end, _exact(x), ThreatModel(0)), front_end(x).double()
        outside = ((code < codes.lower) | (code > codes.upper)).any()
    if outside:
        raise UserError(
            "a certificate is about quantised activations, and the polarizing front end gives others: is its quantiser "
            "off, or replaced? Deploy it with a LevelQuantizer, in eval mode"
        )


def _stages(network: nn.Module) -> list[nn.Module]:
    """The parts of a network one after the other, out of pipelines and runs."""
    if isinstance(network, Pipeline):
        return [stage for part in network.stages for stage in _stages(part)]
    return _stages(network.network) if isinstance(network, FromRun) else [network]


def _exact(x: Tensor) -> Tensor:
    """Images in float64.

    Raises:
        UserError: On a device that has none.
    """
    if x.device.type == "mps":
        raise UserError("certificates are computed in float64, which mps has not; run on the CPU (trainer.accelerator)")
    return x.double()
