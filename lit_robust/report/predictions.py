"""What a run's network says about a few images, if it is still the network that was tested."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from pydoc import locate

import numpy as np

from lit_robust.errors import UserError
from lit_robust.report.material import Model, Test
from lit_robust.report.stored_images import Array


def predictions(model: Model, test: Test, images: Array) -> Array | None:
    """Predicted classes, (N,), or None where they are not known.

    A random network has no prediction, and one that was trained since, or cannot be built here, is not the one that was
    tested.

    Args:
        model: The model.
        test: Its test.
        images: Images in [0, 1], (N, C, H, W).
    """
    import torch

    from lit_robust.nn.from_run import FromRun
    from lit_robust.unfinished import state_digest

    which = Path(str(test.about("checkpoint") or "")).stem
    if which not in ("best", "last") or test.results.get("protocol", {}).get("random_network", True):
        return None
    try:
        network = FromRun(str(model.run), ckpt=which).network
        if state_digest(network.state_dict()) != test.about("network"):
            return None
        with torch.no_grad():
            found: Array = network(torch.from_numpy(np.ascontiguousarray(images))).argmax(1).numpy()
    except (UserError, RuntimeError, TypeError, ValueError, ImportError, AttributeError, SystemExit):
        return None
    return found


def class_names(test: Test) -> Sequence[str]:
    """Names of the classes where the data's class knows them, else none."""
    kind = locate(str((test.config.get("data") or {}).get("class_path")))
    names = getattr(kind, "classes", ())
    return [str(name) for name in names] if isinstance(names, tuple | list) else []


def class_name(names: Sequence[str], number: int) -> str:
    """What a class is called.

    Args:
        names: Names of the classes; may be none.
        number: Its number.
    """
    return names[number] if 0 <= number < len(names) else f"class {number}"
