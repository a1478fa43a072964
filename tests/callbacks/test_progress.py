"""The progress bar names the attack."""

import torch
from digit_runs import digits, trained, trainer, untrained

from lit_robust.attacks import FGSM, PGD
from lit_robust.callbacks import AttackProgressBar, RobustEval
from lit_robust.regimes import AdversarialTraining, Natural
from lit_robust.threat import ThreatModel

LINF = ThreatModel("8/255")


class Bar(AttackProgressBar):
    """Keeps what it showed, by what the trainer did."""

    def __init__(self):
        super().__init__(refresh_rate=1)
        self.shown = {}

    def get_metrics(self, trainer, pl_module):
        metrics = super().get_metrics(trainer, pl_module)
        assert "v_num" not in metrics
        self.shown.setdefault(trainer.state.stage.value, set()).add(metrics.get("attack"))
        return metrics


def test_the_attack_that_is_trained_against(tmp_path):
    bar = Bar()
    regime = AdversarialTraining(untrained(), attack=PGD(threat=LINF, steps=2))
    trainer(tmp_path, bar, enable_progress_bar=True, limit_val_batches=1).fit(regime, datamodule=digits())
    assert bar.shown["train"] == {"PGD-2"}


def test_natural_training_names_none(tmp_path):
    bar = Bar()
    trainer(tmp_path, bar, enable_progress_bar=True, limit_val_batches=1).fit(Natural(untrained()), datamodule=digits())
    assert bar.shown["train"] == {None}


def test_the_bar_of_a_test_names_the_attack_that_runs(tmp_path):
    bar, seen = Bar(), []
    evaluation = RobustEval({"a": FGSM(threat=LINF)})

    class Watched(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = trained()

        def forward(self, x):
            if evaluation.running:
                seen.append(bar.test_progress_bar.postfix)
            return self.inner(x)

    regime = AdversarialTraining(Watched(), attack=PGD(threat=LINF, steps=2))
    run = trainer(tmp_path, evaluation, bar, enable_progress_bar=True)
    run.test(regime, datamodule=digits(), verbose=False)
    assert set(seen) == {"attack=FGSM"}
