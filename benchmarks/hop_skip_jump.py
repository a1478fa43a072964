"""HopSkipJump in L2 against foolbox's, from the same starting images and with as many steps: distances and queries.

Each image's start is the nearest test image that the network does not assign its label. foolbox runs image by image: in
a batch it divides each direction by the norm of all images' directions together.
"""

from __future__ import annotations

import time
from statistics import median

import foolbox
import torch
from foolbox.criteria import Misclassification
from torch import Tensor, nn

from benchmarks.subjects import fashion, pixels, stored_small_cnn
from benchmarks.timing import Comparison, options, report
from lit_robust import sampling
from lit_robust.attacks import HopSkipJump, NearestImage
from lit_robust.attacks.queries import Queries
from lit_robust.attacks.starts import Given
from lit_robust.counting import CountingModel
from lit_robust.sampling import Noise


class Counted(nn.Module):
    """Counts the images that pass through a model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.images = model, 0

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        self.images += len(x)
        logits: Tensor = self.model(x)
        return logits


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--steps", type=int, default=20)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    count, steps = (4, 2) if given.smoke else (given.images, given.steps)
    model = stored_small_cnn("natural_small")
    images = fashion(given.root, train=False)
    x, y = pixels(images.x[: 2 * count]), images.y[: 2 * count]
    with torch.no_grad():
        right = model(x).argmax(1) == y
    x, y = x[right][:count], y[right][:count]
    noise = Noise(sampling.keys(torch.arange(len(x))))
    rows = torch.arange(len(x))
    attack = HopSkipJump(norm="l2", steps=steps)
    ask = Queries(attack=attack, model=model, y=y, noise=noise, position=rows, chunk=4096)
    starts, found = NearestImage().bound(images.x)(ask, x)
    assert found.all(), "every image has a start"

    counting, started = CountingModel(model, noise.key), time.perf_counter()
    chosen = HopSkipJump(norm="l2", steps=steps, start=Given(images=starts))
    ours = chosen.distances(counting, x, y, key=noise.key)
    seconds = {"ours": time.perf_counter() - started}

    counted, started, theirs = Counted(model), time.perf_counter(), []
    wrapped = foolbox.PyTorchModel(counted, bounds=(0, 1), device="cpu")
    library = foolbox.attacks.HopSkipJumpAttack(steps=steps)
    for i in range(len(x)):
        one = library.run(wrapped, x[i : i + 1], Misclassification(y[i : i + 1]), starting_points=starts[i : i + 1])
        theirs.append(float((one - x[i : i + 1]).norm()))
    seconds["foolbox"] = time.perf_counter() - started

    a, b = median(ours.tolist()), median(theirs)
    distance = Comparison(
        name="hop_skip_jump, median L2 distance", ratio=a / b, target=1.05, bound="at most", ours=a, theirs=b, unit="L2"
    )
    queries = {"ours": float(counting.forwards.float().mean()), "foolbox": counted.images / len(x)}
    figures = {"images": len(x), "steps": steps, "queries": queries, "seconds": seconds}
    print(figures)
    report(__spec__.name, [distance], figures, given, ["foolbox"])


if __name__ == "__main__":
    main()
