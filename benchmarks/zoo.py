"""ZOO against ART's on a few images: how many are broken, how far away, and seconds.

Both attack the small CNN of natural training (benchmarks/models) with as many coordinates, iterations and searches for
the constant; both give a descent up that has not got lower within a tenth of them. ART takes one image at a time and
walks in pixels; ours is batched, and walks behind a tanh as the original does.
"""

from __future__ import annotations

import time
from statistics import mean

import numpy as np
import torch
from art.attacks.evasion import ZooAttack
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn

from benchmarks.subjects import fashion, pixels, stored_small_cnn
from benchmarks.timing import Comparison, options, report
from lit_robust.attacks import ZOO


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--images", type=int, default=10)
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument("--searches", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    count, iterations, searches = (2, 5, 1) if given.smoke else (given.images, given.iterations, given.searches)
    model = stored_small_cnn("natural_small")
    images = fashion(given.root, train=False)
    x, y = pixels(images.x[: 4 * count]), images.y[: 4 * count]
    with torch.no_grad():
        right = model(x).argmax(1) == y
    x, y = x[right][:count], y[right][:count]

    queries = {"ours": 0, "art": 0}
    who = "ours"

    def count_queries(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        queries[who] += len(inputs[0])

    watch = model.register_forward_pre_hook(count_queries)
    attack = ZOO(iterations=iterations, searches=searches, abort_every=max(iterations // 10, 1))
    started = time.perf_counter()
    ours = attack(model, x, y, key=torch.arange(count))
    seconds = {"ours": time.perf_counter() - started}

    estimator = PyTorchClassifier(
        model, nn.CrossEntropyLoss(), tuple(x.shape[1:]), 10, clip_values=(0.0, 1.0), device_type="cpu"
    )
    library = ZooAttack(
        estimator,
        learning_rate=0.01,
        max_iter=iterations,
        binary_search_steps=searches,
        initial_const=0.01,
        use_resize=False,
        use_importance=False,
        nb_parallel=128,
        variable_h=1e-4,
        verbose=False,
    )
    np.random.seed(0)  # ART draws from it
    who = "art"
    started = time.perf_counter()
    theirs = torch.from_numpy(library.generate(x.numpy(), nn.functional.one_hot(y, 10).numpy()))
    seconds["art"] = time.perf_counter() - started
    watch.remove()

    own, its = outcome(model, x, y, ours), outcome(model, x, y, theirs)
    print(own, its, seconds, queries)
    broken = Comparison(
        name="zoo, images broken",
        ratio=len(own) / max(len(its), 1),
        target=1,
        ours=len(own),
        theirs=len(its),
        unit="images",
    )
    a, b = mean(own or [0.0]), mean(its or [0.0])
    distance = Comparison(
        name="zoo, mean L2 of what is broken",
        ratio=a / b if b else 0.0,
        target=1.1,
        bound="at most",
        ours=a,
        theirs=b,
        unit="L2",
    )
    figures = {
        "images": count,
        "iterations": iterations,
        "searches": searches,
        "distances": [own, its],
        "queries": queries,
    }
    report(__spec__.name, [broken, distance], figures, given, ["adversarial-robustness-toolbox"])


def outcome(model: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor) -> list[float]:
    """L2 distances of the images that are broken."""
    with torch.no_grad():
        broken = model(x_adv).argmax(1) != y
    return [float(distance) for distance in (x_adv - x)[broken].flatten(1).norm(dim=1)]


if __name__ == "__main__":
    main()
