"""AutoAttack against its authors' package on VGG-16 with CIFAR-10 images: robust accuracy and time, L∞ 8/255.

A network of this size spends nearly all the time in its own passes, so there is less to win than on the small CNN. The
network is trained here for a few hundred steps on images of R+FGSM, enough for some images to survive: only those take
all of AutoAttack's passes.
"""

from __future__ import annotations

import torch

from benchmarks.autoattack import agreement, ours, theirs, time_ratio
from benchmarks.subjects import cifar10_test, cifar10_train, pixels, trained
from benchmarks.timing import options, report
from lit_robust.attacks import RFGSM
from lit_robust.nn import VGG16
from lit_robust.threat import ThreatModel


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--cifar", help="folder of image files with test/CLASS (default: CIFAR-10 below the data root)")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--steps", type=int, default=200, help="training steps of 128 images")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    count, steps, width = (8, 1, 0.125) if given.smoke else (given.images, given.steps, 1.0)
    torch.manual_seed(0)
    threat = ThreatModel("8/255")
    attack = RFGSM(threat=threat)
    model = trained(VGG16(width=width), cifar10_train(given.root, given.cifar), steps=steps, attack=attack)
    test = cifar10_test(given.root, given.cifar)
    chosen = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))[
        :count
    ]  # a folder is sorted by class
    x, y = pixels(test.x[chosen]), test.y[chosen]
    with torch.no_grad():
        clean = int((model(x).argmax(1) == y).sum())
    print(f"{clean} of {count} right before the attack", flush=True)
    own = ours(model, x, y, "linf", eps=threat.radius)
    print(own, flush=True)
    its = theirs(model, x, y, "linf", eps=threat.radius)
    name = "autoattack_vgg, VGG-16 after R+FGSM training, linf"
    figures = {"images": count, "clean": clean, "ours": own, "theirs": its}
    comparisons = [
        time_ratio(f"{name}, time", own, its, 0.9),
        agreement(f"{name}, images right", own["right"], [its["right"]]),
    ]
    report(__spec__.name, comparisons, figures, given, ["pyautoattack"])


if __name__ == "__main__":
    main()
