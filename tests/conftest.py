import logging
import os

import pytest
import torch

# One thread: small tensors, and several test processes share the cores. Processes that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_settings(monkeypatch):
    """No test sees another's run folder, the user's settings, or random numbers of another order of the tests."""
    torch.manual_seed(0)
    for name in ("LIT_ROBUST_FOLDER", "LIT_ROBUST_DEBUG", "PL_GLOBAL_SEED"):
        monkeypatch.delenv(name, raising=False)


# Lightning's log handler keeps the standard error of the test that imported it, which is closed in the next one.
logging.raiseExceptions = False
