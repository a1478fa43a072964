"""Dictionary learning: scikit-learn's own loop, stopped and resumed, and what its folder holds."""

import json

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from PIL import Image
from trained import digits

from lit_robust import sampling
from lit_robust.callbacks import AtomicCheckpointIO, Checkpoints
from lit_robust.data import Augment
from lit_robust.data.patches import centred, random_patches
from lit_robust.errors import UserError
from lit_robust.nn.dictionary import PatchAtoms, PatchDictionary
from lit_robust.nn.sparse_encoder import SparseEncoder
from lit_robust.regimes.dictionary_figure import atom_grid
from lit_robust.regimes.dictionary_learning import DictionaryLearning
from lit_robust.regimes.online_dictionary import OnlineDictionary

OPTIONS = {"alpha": 0.2, "mini_batches": 60, "mini_batch": 5, "stride": 2, "sample": 50}


def data(**options):
    return digits(**{"val_split": 0, "batch_size": 50, **options})


class Stop(pl.Callback):
    """Ends the run where a killed process would, after a number of steps."""

    def __init__(self, at):
        self.at = at

    def on_train_batch_start(self, trainer, *args):
        if trainer.global_step == self.at:
            raise RuntimeError("killed")


def fit(folder, *, module=None, images=None, stop=None, ckpt_path=None, atoms=16, **options):
    own = DictionaryLearning(PatchAtoms(atoms=atoms, patch=4, in_channels=1), **{**OPTIONS, **options})
    regime = module or own
    trainer = pl.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Checkpoints(select="last", every_n_steps=2), *([] if stop is None else [Stop(stop)])],
        plugins=[AtomicCheckpointIO()],
    )
    trainer.fit(regime, datamodule=images or data(), ckpt_path=ckpt_path, weights_only=True)
    return trainer, regime


@pytest.mark.parametrize("centre", [False, True])
def test_it_is_scikit_learn_s_loop_over_the_patches_of_the_loader(tmp_path, centre):
    from sklearn.decomposition import MiniBatchDictionaryLearning

    trainer, _ = fit(tmp_path, centre=centre)
    assert trainer.global_step == 6, "60 mini-batches of 5 patches, 50 a batch"
    images = data()
    index = images.split[0]
    spread = index[:: len(index) // 50][:50]
    sample = random_patches(
        images.images(True).x[spread].double() / 255, sampling.Noise(sampling.keys(spread), 1), patch=4, stride=2
    )
    patches = []
    for x, _, rows in list(images.train_dataloader())[:6]:
        noise = sampling.Noise(sampling.keys(rows))
        patches.append(random_patches(x.float() / 255, noise, patch=4, stride=2))
    prepared = [centred(each) if centre else each for each in (sample, torch.cat(patches))]
    start, rows = (each.flatten(1).double() for each in prepared)
    _, _, vectors = np.linalg.svd(start.numpy(), full_matrices=False)
    vectors *= np.sign(np.take_along_axis(vectors, np.abs(vectors).argmax(1)[:, None], 1))
    learner = MiniBatchDictionaryLearning(16, alpha=0.2, n_jobs=1, dict_init=vectors, random_state=0)
    for at in range(0, 300, 5):
        learner.partial_fit(rows[at : at + 5].numpy())
    atoms = learner.components_ / np.linalg.norm(learner.components_, axis=1, keepdims=True)
    found = PatchDictionary.load(tmp_path)
    np.testing.assert_allclose(found.atoms.flatten(1).numpy(), atoms, atol=1e-5)
    assert found.settings["mini_batches"] == 60
    assert found.settings["mean_removed"] is centre


@pytest.mark.parametrize("stop", [3, 8])
def test_a_stopped_run_resumes_to_the_same_atoms_bit_for_bit(tmp_path, stop):
    options = {"mini_batches": 80, "mini_batch": 20, "alpha": 1.0}
    batches = {"batch_size": 200}  # an epoch has 7 of 10 mini-batches, and 1 in the last 37 images
    fit(tmp_path / "whole", images=data(**batches), **options)
    with pytest.raises(RuntimeError, match="killed"):
        fit(tmp_path / "half", stop=stop, images=data(**batches), **options)
    assert not (tmp_path / "half" / "dictionary.pt").exists()
    with pytest.raises(UserError, match="fit --resume"):
        SparseEncoder(str(tmp_path / "half"), stride=2)
    last = str(tmp_path / "half" / "checkpoints" / "last.ckpt")
    trainer, _ = fit(tmp_path / "half", ckpt_path=last, images=data(**batches), **options)
    assert trainer.global_step == 9
    whole, half = (PatchDictionary.load(tmp_path / name) for name in ("whole", "half"))
    assert torch.equal(whole.atoms, half.atoms)
    assert whole.settings == half.settings


def test_the_folder_holds_dictionary_figures_and_picture(tmp_path):
    fit(tmp_path)
    found = PatchDictionary.load(tmp_path)
    assert found.atoms.shape == (16, 1, 4, 4)
    torch.testing.assert_close(found.atoms.flatten(1).norm(dim=1), torch.ones(16))
    wanted = {"atoms": 16, "channels": 1, "patch": 4, "alpha": 0.2, "mini_batches": 60, "mini_batch": 5, "stride": 2}
    assert wanted.items() <= found.settings.items()
    assert found.settings["data"] == "Digits"
    assert found.settings["seed"] == 0
    written = json.loads((tmp_path / "dictionary.json").read_text())
    assert written["settings"] == found.settings
    assert written["properties"]["atoms"] == 16
    with Image.open(tmp_path / "dictionary.png") as picture:
        assert min(picture.size) > 100
    code = SparseEncoder(str(tmp_path), stride=2, patch=4, atoms=16, alpha=0.2)(torch.rand(2, 1, 16, 16))
    assert code.shape == (2, 16, 7, 7)


def test_the_seed_of_the_run_chooses_the_patches(tmp_path, monkeypatch):
    fit(tmp_path / "1")
    monkeypatch.setenv("PL_GLOBAL_SEED", "1")
    fit(tmp_path / "2")
    first, second = (PatchDictionary.load(tmp_path / name) for name in "12")
    assert not torch.equal(first.atoms, second.atoms)
    assert second.settings["seed"] == 1


def test_several_patches_an_image_and_augmented_images(tmp_path):
    images = data(augment=Augment(pad=1, flip=True))
    trainer, _ = fit(tmp_path, images=images, patches=3, mini_batches=45)
    assert trainer.global_step == 2, "30 mini-batches in the first batch, 15 of 30 in the second"
    assert PatchDictionary.load(tmp_path).settings["mini_batches"] == 45


def test_a_learner_goes_on_from_its_state():
    torch.manual_seed(0)
    start, patches = torch.rand(40, 2, 3, 3), torch.rand(90, 2, 3, 3)
    options = {"alpha": 1.0, "seed": 4, "start": start}
    whole, first, second = (OnlineDictionary(atoms=60, **options) for _ in range(3))  # unused atoms are drawn anew
    assert not whole.atoms.any()
    assert first.state_dict() == {"mini_batches": 0}
    whole.learn(patches, 5)
    first.learn(patches[:35], 5)
    second.load_state_dict(first.state_dict())
    assert torch.equal(second.atoms, first.atoms)
    second.learn(patches[35:], 5)
    assert whole.mini_batches == second.mini_batches == 18
    assert torch.equal(whole.atoms, second.atoms)
    with pytest.raises(UserError, match=r"atoms of shape \(60, 18\), not those of the config"):
        OnlineDictionary(atoms=24, **options).load_state_dict(first.state_dict())


def test_the_picture_scales_each_atom_to_its_range():
    atoms = torch.stack([torch.arange(4.0).view(1, 2, 2) * 10 - 7, torch.full((1, 2, 2), 5.0), torch.eye(2)[None]])
    image = atom_grid(atoms)
    assert image.shape == (3, 5, 5)
    assert torch.equal(image[0], image[2])
    third = torch.tensor([[0, 1 / 3], [2 / 3, 1]])
    torch.testing.assert_close(image[0, :2, :2], third)
    assert not image[0, :2, 3:].any(), "an atom without range is black"
    assert torch.equal(image[0, 3:, :2], torch.eye(2))
    assert (image[0, 2] == 1).all()
    assert (image[0, :, 2] == 1).all()
    assert atom_grid(torch.rand(500, 3, 4, 4)).shape == (3, 99, 99), "the last 400, 20 by 20"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mini_batches": 0}, "expected mini_batches of DictionaryLearning to be at least 1, got 0"),
        ({"patches": -1}, "expected patches of DictionaryLearning to be at least 1, got -1"),
        ({"alpha": 0.0}, "expected alpha of DictionaryLearning above 0, got 0.0"),
        ({"mini_batch": 100}, "50 images with 1 patches each do not fill a mini-batch of 100"),
    ],
)
def test_bad_settings_are_refused(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        fit(tmp_path, **options)


@pytest.mark.parametrize("size", [{"patch": 17, "in_channels": 1}, {"patch": 4, "in_channels": 3}])
def test_atoms_that_do_not_fit_the_images_are_refused(tmp_path, size):
    with pytest.raises(UserError, match="do not fit the data's 1 x 16 x 16 images"):
        fit(tmp_path, module=DictionaryLearning(PatchAtoms(atoms=5, **size), **OPTIONS))


def test_a_dictionary_is_not_tested(tmp_path):
    trainer, regime = fit(tmp_path)
    with pytest.raises(UserError, match="a dictionary can only be learned"):
        trainer.test(regime, datamodule=data(), verbose=False)
