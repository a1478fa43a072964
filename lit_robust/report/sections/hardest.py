"""The hardest images of each model: right by the smallest margin, and broken with the smallest distance."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lit_robust.errors import UserError
from lit_robust.evaluation.adversarials import ADVERSARIALS
from lit_robust.evaluation.verdict import CLEAN
from lit_robust.report.material import Model, Test
from lit_robust.report.page import Content, Markup, Section, command, element, joined, lines, note
from lit_robust.report.pictures import Pictures, inline
from lit_robust.report.predictions import class_name, class_names, predictions
from lit_robust.report.stored_images import Array, columns, images
from lit_robust.threat import NAMES

_SHOWN = 4  # of a kind
_SIDE = 224  # pixels; larger images are shown smaller
_WHY = (
    "Each image, the perturbation (grey is none, scaled to its largest value) and the attacked image. The margin is "
    "the logit of the true class minus the largest other one."
)


@dataclass(frozen=True, kw_only=True)
class Broken:
    """Adversarial images of one test.

    Attributes:
        model: The model that they break.
        test: The test.
        about: Columns of `adversarials.npz` without the images, a row an adversarial.
        margins: Margin of each clean image, by its index.
    """

    model: Model
    test: Test
    about: Mapping[str, Array]
    margins: Mapping[int, float]


def section(models: Sequence[Model], pictures: Pictures) -> Section:
    """Galleries of each model."""
    title, parts = "Hardest images", list[Content]()
    for model in models:
        shown, why = _model(model)
        if shown or why:
            parts += [element("h3", model.label), *shown, note(why) if why else None]
    if not parts:
        body = joined(["no adversarial images; ", command(models[0].command("fmn.yaml"))])
        return Section(anchor="hardest", title=title, body=body, empty=True)
    return Section(anchor="hardest", title=title, body=joined([note(_WHY), *parts]))


def _model(model: Model) -> tuple[list[Markup], str]:
    """Galleries of a model, and what could not be read."""
    tests, problems = [], []
    for test in model.tests:
        if (test.folder / ADVERSARIALS).is_file():
            try:
                about = columns(test.folder / ADVERSARIALS)
                if len(about["index"]):
                    tests.append(Broken(model=model, test=test, about=about, margins=_margins(test)))
            except (OSError, ValueError, KeyError, UserError) as error:
                problems.append(f"{test.folder.name}: its adversarial images cannot be read ({error}).")
    return [*_by_margin(tests), *_by_distance(tests)], " ".join(problems)


def _margins(test: Test) -> dict[int, float]:
    clean = test.samples()[CLEAN]
    return dict(zip(clean["index"].tolist(), clean["clean_margin"].tolist(), strict=True))


def _by_margin(tests: Sequence[Broken]) -> list[Markup]:
    """The images that are right by the least, of the test that broke the most of them."""
    if not tests:
        return []
    broken = max(tests, key=lambda each: len(np.unique(each.about["index"])))
    _, firsts = np.unique(broken.about["index"], return_index=True)
    order = sorted(firsts.tolist(), key=lambda row: broken.margins[int(broken.about["index"][row])])
    return [_gallery(f"right by the smallest margin, and broken in {broken.test.folder.name}", broken, order[:_SHOWN])]


def _by_distance(tests: Sequence[Broken]) -> list[Markup]:
    """The images that were broken with the smallest distance: a gallery a norm, of searches for the nearest if any."""
    found = []
    for norm in (each for each in NAMES if any(each in broken.about["norm"] for broken in tests)):
        having = [broken for broken in tests if norm in broken.about["norm"]]
        broken = max(having, key=lambda each: bool((np.isinf(each.about["eps"]) & (each.about["norm"] == norm)).any()))
        mine = np.flatnonzero(broken.about["norm"] == norm)
        nearest = mine[np.isinf(broken.about["eps"][mine])]
        rows = nearest if len(nearest) else mine
        order = rows[np.argsort(broken.about["distance"][rows], kind="stable")]
        _, firsts = np.unique(broken.about["index"][order], return_index=True)
        chosen = order[np.sort(firsts)][:_SHOWN].tolist()
        kind = "" if len(nearest) else ", by an attack that does not look for the nearest"
        title = f"broken with the smallest distance in {NAMES[norm]} in {broken.test.folder.name}{kind}"
        found.append(_gallery(title, broken, chosen))
    return found


def _gallery(title: str, broken: Broken, rows: Sequence[int]) -> Markup:
    path = broken.test.folder / ADVERSARIALS
    x, x_adv = images(path, "x", rows), images(path, "x_adv", rows)
    said = predictions(broken.model, broken.test, np.concatenate([x, x_adv]))
    labels = [int(broken.about["label"][row]) for row in rows]
    if said is not None and said[: len(rows)].tolist() != labels:
        said = None  # not the network that was tested: it was right on all of these
    names = class_names(broken.test)
    shown = []
    for i, row in enumerate(rows):
        after = "wrong" if said is None else class_name(names, int(said[len(rows) + i]))
        shown.append(_example(broken, row, (x[i], x_adv[i]), (class_name(names, labels[i]), after)))
    return joined([element("p", f"{title[0].upper()}{title[1:]}:"), element("div", shown, class_="images")])


def _example(broken: Broken, row: int, pair: tuple[Array, Array], classes: tuple[str, str]) -> Markup:
    about, (x, x_adv), (label, after) = broken.about, pair, classes
    index, norm = int(about["index"][row]), str(about["norm"][row])
    delta = x_adv - x
    scaled = 0.5 + 0.5 * delta / max(float(np.abs(delta).max()), 1e-12)
    described = f"image {index}, {label}, attacked by {about['attack'][row]}"
    shown = [
        inline(png(pixels), f"{described}: {what}")
        for pixels, what in ((x, "clean"), (scaled, "perturbation"), (x_adv, "attacked"))
    ]
    caption = lines(
        element("strong", f"{label} → {after}"),
        f"image {index}, margin {broken.margins[index]:.3g}",
        f"{about['attack'][row]}, {NAMES.get(norm, norm)} distance {float(about['distance'][row]):.3g}",
    )
    return element("figure", shown, element("figcaption", caption))


def png(image: Array) -> bytes:
    """An image as PNG.

    Args:
        image: (C, H, W) in [0, 1]; of more channels than three the first three are shown.
    """
    from PIL import Image

    bytes_ = (image.clip(0, 1) * 255).round().astype(np.uint8)
    channels = bytes_[:3] if len(bytes_) >= 3 else bytes_[:1]
    pixels = channels[0] if len(channels) == 1 else np.moveaxis(channels, 0, 2)
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    picture.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()
