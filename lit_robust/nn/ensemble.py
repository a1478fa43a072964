"""An ensemble of the draws of one random network."""

from __future__ import annotations

from torch import Tensor, nn

from lit_robust.expectation import Expectation, passes


class Ensemble(Expectation):
    """Deploys the mean softmax of several draws of a random network; training sees one draw a step.

    In section 4.2 of the dissertation ten draws, each with its own dropout in the encoder, make a prediction. An attack
    on it sees the ensemble, as it is deployed; `EOT` takes the network inside and its own number of draws.

    Args:
        network: Random network, from images to logits.
        draws: Number of forward passes of a prediction.

    Raises:
        UserError: If `draws` is below 1.
    """

    deployed = True

    def __init__(self, network: nn.Module, draws: int = 10) -> None:
        super().__init__(network, draws, "probs")

    def forward(self, x: Tensor) -> Tensor:
        """In eval mode the log of the mean softmax, (N, classes); in train mode the logits of one draw.

        Args:
            x: Images (N, C, H, W) in [0, 1].
        """
        return self.passes(x, 1)

    def passes(self, x: Tensor, n: int) -> Tensor:
        """Outputs of n forward passes in a row, (n·N, classes), those of the first pass first; see `forward`."""
        return passes(self.model, x, n) if self.training else super().passes(x, n)
