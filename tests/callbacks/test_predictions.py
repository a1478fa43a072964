"""Predictions as a file."""

import csv

import pytest
import torch
from digit_runs import digits, still, trained, trainer

from lit_robust.callbacks.predictions import PredictionsFile


@pytest.mark.parametrize("size", [7, 100, 1000])
def test_every_image_of_the_test_set_has_its_row_in_the_order_of_the_data(size, tmp_path, capsys):
    network, data = trained(), digits(eval_batch_size=size)
    run = trainer(tmp_path, PredictionsFile())
    run.predict(still(network), datamodule=data, return_predictions=False)
    with (tmp_path / "predictions.csv").open(newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
        assert reader.fieldnames == ["index", "label", "prediction", "confidence"]
    test = data.images(train=False)
    with torch.no_grad():
        confidence, prediction = network(test.x.float() / 255).softmax(1).max(1)
    assert [int(row["index"]) for row in rows] == list(range(360))
    assert [int(row["label"]) for row in rows] == test.y.tolist()
    assert [int(row["prediction"]) for row in rows] == prediction.tolist()
    assert [float(row["confidence"]) for row in rows] == pytest.approx(confidence.tolist(), abs=1e-5)
    assert [p.name for p in tmp_path.iterdir()] == ["predictions.csv"]
    assert f"predictions: {tmp_path / 'predictions.csv'}" in capsys.readouterr().out


def test_rows_of_several_processes_are_put_in_order(tmp_path):
    # Blocks are dealt in turn: this process and, as if it had written before, another one.
    class Two:
        world_size, global_rank, is_global_zero, default_root_dir = 2, 0, True, str(tmp_path)
        strategy = type("Strategy", (), {"broadcast": staticmethod(lambda v: v), "barrier": staticmethod(lambda: None)})

    def batch(*index):
        index = torch.tensor(index)
        return {"index": index, "label": index % 3, "prediction": index % 2, "confidence": index / 100}

    class Other(Two):
        global_rank, is_global_zero = 1, False

    PredictionsFile().write_on_epoch_end(Other, None, [batch(3, 4, 5), batch(10)], [])
    PredictionsFile().write_on_epoch_end(Two, None, [batch(0, 1, 2), batch(6, 7, 8)], [])
    with (tmp_path / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["index"]) for row in rows] == [0, 1, 2, 3, 4, 5, 6, 7, 8, 10]
    assert all(int(row["label"]) == int(row["index"]) % 3 for row in rows)
    assert [p.name for p in tmp_path.iterdir()] == ["predictions.csv"]
