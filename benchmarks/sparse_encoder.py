"""The sparse encoder at the CIFAR-10 setting: 64 images, 500 atoms of 4×4 at stride 2, T = 50, p = 0.95, smooth(4).

Ours is `SparseEncoder`, theirs what one would write without a thought of speed: a convolution, a full `topk`, a scatter
into a dense tensor, dropout and the activation of that tensor. Each takes a forward pass and the gradient in the
images; noise comes from torch's generator in both. Then E draws: `pieces`, in which projection and choice of the
coefficients run once, against E passes of our own encoder, with keyed noise as in an attack; for the encoder alone and
for the front end with the decoder 60/20 and ResNet-32 behind it. At last the front end with its full decoder: how much
of a step the encoder takes.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.timing import Comparison, Seconds, alternate, options, report, speedup
from lit_robust import sampling
from lit_robust.nn.code_activation import CodeActivation
from lit_robust.nn.code_decoder import CodeDecoder
from lit_robust.nn.code_dropout import CodeDropout
from lit_robust.nn.resnet32 import ResNet32
from lit_robust.nn.sparse_encoder import SparseEncoder
from lit_robust.nn.sparse_front_end import SparseFrontEnd
from lit_robust.nn.top_t import TopT

ATOMS, PATCH, STRIDE, T, P, THRESHOLD, STEEPNESS = 500, 4, 2, 50, 0.95, 24 / 255, 4.0


class Plain(nn.Module):
    """The straightforward form.

    Args:
        atoms: The dictionary, (L, C, k, k).
    """

    def __init__(self, atoms: Tensor) -> None:
        super().__init__()
        self.register_buffer("atoms", atoms)
        self.register_buffer("norms", atoms.abs().sum((1, 2, 3))[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        """Codes (N, L, H', W')."""
        a = F.conv2d(x, self.atoms, stride=STRIDE)
        index = a.abs().topk(T, dim=1).indices
        kept = torch.zeros_like(a).scatter(1, index, a.gather(1, index))
        v = F.dropout(kept, P, training=True) * (1 - P) / self.norms
        soft = 0.5 * (torch.tanh(STEEPNESS * (v - THRESHOLD)) + torch.tanh(STEEPNESS * (v + THRESHOLD)))
        hard = 0.5 * (torch.sign(v - THRESHOLD) + torch.sign(v + THRESHOLD))
        return (soft + (hard - soft).detach()) * self.norms


def encoder(atoms: Tensor) -> SparseEncoder:
    """Ours, at the same setting."""
    layers = {"top": TopT(T), "dropout": CodeDropout(P), "activation": CodeActivation("8/255", beta=3.0)}
    return SparseEncoder(atoms, stride=STRIDE, **layers)


class Gradient:
    """A forward pass and the gradient in the images, for incoming gradients that are dense and made once.

    Args:
        run: Images to outputs, one or several of them.
        x: Images.
        keyed: Whether noise is keyed, as in an attack, or comes from torch's generator.
    """

    def __init__(self, run: Callable[[Tensor], list[Tensor]], x: Tensor, *, keyed: bool = True) -> None:
        self.run, self.x = run, x
        self.key = torch.arange(len(x)) if keyed else None
        self.incoming: list[Tensor] = []

    def __call__(self) -> Tensor:
        """The gradient, (N, C, H, W)."""
        leaf = self.x.clone().requires_grad_()
        with nullcontext() if self.key is None else sampling.keyed(self.key):
            out = self.run(leaf)
        if not self.incoming:
            self.incoming = [torch.randn_like(each) for each in out]
        return torch.autograd.grad(out, leaf, self.incoming)[0]


def one_by_one(run: Callable[[Tensor], Tensor], n: int) -> Callable[[Tensor], list[Tensor]]:
    """As many passes."""
    return lambda x: [run(x) for _ in range(n)]


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="turns that count; one more comes before them")
    parser.add_argument("--draws", type=int, default=40, help="draws of the encoder, as in the dissertation's EOT")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    batch, rounds, draws = (2, 2, 3) if given.smoke else (64, given.rounds, given.draws)
    atoms = F.normalize(torch.randn(ATOMS, 3 * PATCH**2)).view(ATOMS, 3, PATCH, PATCH)
    x = torch.rand(batch, 3, 32, 32)
    ours, theirs = encoder(atoms), Plain(atoms)
    two = {name: Gradient(one_by_one(each, 1), x, keyed=False) for name, each in (("ours", ours), ("theirs", theirs))}
    seconds = alternate(two, rounds=rounds)
    eot = {"draws": Gradient(lambda x: list(ours.pieces(x, draws)), x), "passes": Gradient(one_by_one(ours, draws), x)}
    seconds |= alternate(eot, rounds=min(rounds, 3))
    front = SparseFrontEnd(encoder(atoms), CodeDecoder(ATOMS, (60, 20))).eval()
    few, some = min(draws, 10), x[:16]
    classifier = ResNet32().eval()
    models = {
        "model draws": Gradient(lambda x: [classifier(front.passes(x, few))], some),
        "model passes": Gradient(one_by_one(lambda x: classifier(front(x)), few), some),
    }
    seconds |= alternate(models, rounds=min(rounds, 3))
    decoder, code = CodeDecoder(ATOMS).eval(), ours(x).detach()
    seconds |= alternate({"decoder": Gradient(one_by_one(decoder, 1), code)}, rounds=min(rounds, 2))
    _report(seconds, draws, few, given)


def _report(seconds: Seconds, draws: int, few: int, given: object) -> None:
    share = median(seconds["ours"]) / (median(seconds["ours"]) + median(seconds["decoder"]))
    print(f"the encoder takes {share:.0%} of encoder and decoder 500/300/100/3 together")
    comparisons: list[Comparison] = [
        speedup("sparse_encoder, forward and backward", seconds["ours"], seconds["theirs"], target=2),
        speedup(f"sparse_encoder, {draws} draws", seconds["draws"], seconds["passes"], target=5),
        speedup(f"sparse_encoder, {few} draws of a model", seconds["model draws"], seconds["model passes"], target=1),
    ]
    figures = {"draws": draws, "model_draws": few, "seconds": seconds, "encoder_share": share}
    report(__spec__.name, comparisons, figures, given)


if __name__ == "__main__":
    main()
