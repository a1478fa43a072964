"""Accuracy on the first held-out images, clean and under attacks, in the middle of a training."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lit_robust import sampling
from lit_robust.attacks import Attack
from lit_robust.attacks.base import prepare, searching
from lit_robust.modes import network_mode
from lit_robust.sampling import CHECK, Noise

CLEAN, PROBE, TRAINING = "clean", "probe", "train_attack"


def held_out_accuracies(
    network: nn.Module,
    data: Any,  # noqa: ANN401 - a data module of lit_robust.data, which callbacks do not import
    probe: Attack,
    training: Attack | None,
    *,
    samples: int,
    seed: int,
) -> dict[str, float]:
    """Shares of the first validation images that are classified correctly: `clean`, `probe` and `train_attack`.

    The images, their blocks and their noise are the same every time. The network is in eval mode meanwhile; its mode,
    its statistics and torch's generators are afterwards as before.

    Args:
        network: Images in [0, 1] to logits.
        data: The data module, with a validation part.
        probe: An attack that answers with the first adversarial of each sample.
        training: An attack that answers with its last iterate, as in training; None leaves it out.
        samples: Images at most.
        seed: Seed of the noise.
    """
    like = next(network.parameters())
    images, index = data.images(train=True), data.split[1][:samples]
    right: dict[str, int] = {}
    with network_mode(network, train=False), _generators_kept(like.device), torch.inference_mode(False):
        for rows in index.split(data.eval_batch_size):
            x = images.x[rows].to(like)
            x, y = x / x.new_full((), 255), images.y[rows].to(like.device)
            key = sampling.keys(rows.to(like.device), seed=seed)
            found = {CLEAN: x}
            with searching(network):
                found[PROBE] = probe.falsify(network, *prepare(x, y, key)).detach()
                if training is not None:
                    found[TRAINING] = training.search(network, *prepare(x, y, key)).detach()
            for name, shown in found.items():
                right[name] = right.get(name, 0) + _correct(network, shown, y, Noise(key))
    return {name: count / len(index) for name, count in right.items()}


def _correct(network: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> int:
    with torch.no_grad(), noise.keyed(CHECK):
        return int((network(x).argmax(1) == y).sum())


def _generators_kept(device: torch.device) -> Any:  # noqa: ANN401 - a context
    """Context after which torch's generators are as before: a network may draw from them in eval mode too."""
    return torch.random.fork_rng([device] if device.type == "cuda" else [])
