"""Online dictionary learning by scikit-learn, with a state that a checkpoint can hold."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lit_robust.errors import UserError


class OnlineDictionary:
    """scikit-learn's `MiniBatchDictionaryLearning`, one `partial_fit` a mini-batch (Mairal et al., 2009).

    It starts from singular vectors of a sample: `partial_fit` alone would start from those of its first mini-batch.

    Args:
        atoms: Number of atoms, L.
        alpha: Weight of the L1 norm of the codes.
        seed: Seed of what replaces unused atoms.
        start: Sample of patches whose right singular vectors are the first atoms, (M, C, k, k); the others start at
            zero, which the first mini-batch replaces by patches.
    """

    def __init__(self, *, atoms: int, alpha: float, seed: int, start: Tensor) -> None:
        import numpy as np
        from sklearn.decomposition import MiniBatchDictionaryLearning

        self.shape = tuple(start.shape[1:])
        vectors = torch.linalg.svd(start.flatten(1).double(), full_matrices=False).Vh[:atoms]
        vectors = vectors * vectors.gather(1, vectors.abs().argmax(1, keepdim=True)).sign()  # their sign is arbitrary
        self._learner: Any = MiniBatchDictionaryLearning(
            n_components=atoms,
            alpha=alpha,
            fit_algorithm="lars",
            n_jobs=1,
            dict_init=vectors.numpy(),
            random_state=np.random.RandomState(seed),
        )

    @property
    def mini_batches(self) -> int:
        """Mini-batches that it has learned from."""
        return int(getattr(self._learner, "n_steps_", 0))

    @property
    def atoms(self) -> Tensor:
        """The atoms at norm 1, (L, C, k, k) float32; zeros before the first mini-batch."""
        if not self.mini_batches:
            return torch.zeros(self._learner.n_components, *self.shape)
        rows = torch.from_numpy(self._learner.components_.copy())
        atoms: Tensor = rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-12)
        return atoms.view(-1, *self.shape).float()

    def learn(self, patches: Tensor, mini_batch: int) -> None:
        """Learns from patches (M, C, k, k), a mini-batch after the other; a shorter rest is left out."""
        rows = patches.detach().flatten(1).double().cpu().numpy()
        for start in range(0, len(rows) - mini_batch + 1, mini_batch):
            self._learner.partial_fit(rows[start : start + mini_batch])

    def state_dict(self) -> dict[str, Any]:
        """All that the next mini-batch depends on, as tensors and plain values."""
        learner = self._learner
        if not self.mini_batches:
            return {"mini_batches": 0}
        _, keys, position, has_gauss, cached = learner._random_state.get_state()
        arrays = {"atoms": learner.components_, "A": learner._A, "B": learner._B, "keys": keys.astype("int64")}
        return {
            "mini_batches": self.mini_batches,
            "position": [int(position), int(has_gauss), float(cached)],
            **{name: torch.from_numpy(array.copy()) for name, array in arrays.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from what `state_dict` gave.

        Raises:
            UserError: If the state is of another shape.
        """
        import numpy as np

        if not state["mini_batches"]:
            return
        learner, rows = self._learner, state["atoms"].shape
        if tuple(rows) != (learner.n_components, learner.dict_init.shape[1]):
            raise UserError(f"the checkpoint has atoms of shape {tuple(rows)}, not those of the config")
        # One mini-batch makes every attribute that `partial_fit` needs; all that it has learned is then replaced.
        learner.partial_fit(np.zeros((1, rows[1])))
        learner.components_ = np.asfortranarray(state["atoms"].numpy())
        learner._A, learner._B = state["A"].numpy().copy(), state["B"].numpy().copy()
        learner.n_steps_ = state["mini_batches"]
        position, has_gauss, cached = state["position"]
        keys = state["keys"].numpy().astype(np.uint32)
        learner._random_state.set_state(("MT19937", keys, position, has_gauss, cached))
