"""What several tests of one network say jointly: all attacks, and the worst case of each image over all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lit_robust import __version__
from lit_robust.combination.part import COMBINED, Part
from lit_robust.errors import UserError
from lit_robust.evaluation.adversarials import ADVERSARIALS
from lit_robust.evaluation.store import SCHEMA
from lit_robust.evaluation.summary import attack_figures, share, worst_cases
from lit_robust.evaluation.verdict import CLEAN

if TYPE_CHECKING:
    import pyarrow as pa

_PROVENANCE = ("run", "checkpoint", "selected", "data", "weights", "network", "images")


def combined(parts: Sequence[Part]) -> tuple[dict[str, Any], pa.Table]:
    """The content of `results.json` and of `per_sample.parquet`.

    The figures of single attacks are those of their tests; on a part of a test's images they follow from its rows,
    except for the seconds.

    Args:
        parts: The tests, all on the same images; the row of clean images is that of the first.

    Raises:
        UserError: If two attacks would have one name.
    """
    import pyarrow as pa

    renamed = names(parts)
    attacks, columns = dict[str, Any](), dict[str, Any]()
    for part, new in zip(parts, renamed, strict=True):
        for name in part.attacks:
            attacks[new[name]], columns[new[name]] = _figure(part, name), part.samples(name)
    members: dict[str, list[str]] = {}
    for name, figure in attacks.items():
        if figure["kind"] == "adversary" and "accuracy" in figure:
            members.setdefault(figure["threat_model"], []).append(name)
    before, right = ({name: c[key] for name, c in columns.items()} for key in ("right_before", "right"))
    first = parts[0]
    content = {
        **{key: first.results[key] for key in _PROVENANCE if key in first.results},
        "lit_robust": __version__,
        "schema": SCHEMA,
        "clean": share(first.samples(CLEAN)["right"]),
        "attacks": attacks,
        "worst_case": worst_cases(members, before, right),
        "protocol": _protocol(parts),
        "tests": [_about(part, new) for part, new in zip(parts, renamed, strict=True)],
    }
    rows = [_rows(part, new, with_clean=part is first) for part, new in zip(parts, renamed, strict=True)]
    return content, pa.concat_tables(rows)


def names(parts: Sequence[Part]) -> list[dict[str, str]]:
    """What each test's attacks are called, by their own names: `name (TITLE-N)` where two tests have one of a name.

    Args:
        parts: The tests.

    Raises:
        UserError: If two attacks would have one name all the same.
    """
    labels = [part.folder.resolve().name for part in parts]
    if len(set(labels)) < len(labels):  # tests of several runs with the same weights
        labels = ["/".join((*path.parts[-4:-2], path.name)) for path in (part.folder.resolve() for part in parts)]
    often = Counter(name for part in parts for name in part.attacks)
    found = [
        {name: f"{name} ({label})" if often[name] > 1 else name for name in part.attacks}
        for part, label in zip(parts, labels, strict=True)
    ]
    twice = [name for name, count in Counter(name for new in found for name in new.values()).items() if count > 1]
    if twice:
        raise UserError(f"two attacks would be called {twice[0]!r}; rename the folder of one of the tests")
    return found


def _figure(part: Part, name: str) -> dict[str, Any]:
    """An attack's figures as its test gave them, or on a part of the images."""
    figure = dict(part.attacks[name])
    if len(part.index) == part.tested:
        return figure
    norm = figure["minimum_norm"]["norm"] if "minimum_norm" in figure else None
    return {**figure, **attack_figures(part.samples(name), radius="accuracy" in figure, norm=norm)}


def _protocol(parts: Sequence[Part]) -> dict[str, Any]:
    """What holds for all figures: what all tests agree in, and which tests and images these are."""
    protocols = [part.results["protocol"] for part in parts]
    agreed = {
        key: value
        for key, value in protocols[0].items()
        if all(key in protocol and protocol[key] == value for protocol in protocols)
    }
    n, of = len(parts[0].index), [part.tested for part in parts]
    common = {} if all(tested == n for tested in of) else {"common": {"n": n, "of": of}}
    return {**agreed, COMBINED: [str(part.folder) for part in parts], **common}


def _about(part: Part, new: Mapping[str, str]) -> dict[str, Any]:
    """How a test was measured and screened, which attacks are its, and where its adversarial images are."""
    adversarials = part.folder / ADVERSARIALS
    return {
        "test": str(part.folder),
        "checkpoint": part.results.get("checkpoint"),
        "lit_robust": part.results.get("lit_robust"),
        "attacks": dict(new),
        "adversarials": str(adversarials) if adversarials.is_file() else None,
        "protocol": part.results["protocol"],
        **{key: part.results[key] for key in ("screening", "notes") if key in part.results},
    }


def _rows(part: Part, new: Mapping[str, str], *, with_clean: bool) -> pa.Table:
    """The rows of a test under the new names, with those of the clean images or without."""
    import pyarrow as pa

    known = {**({CLEAN: CLEAN} if with_clean else {}), **new}
    table = part.table.filter(np.isin(part.table["attack"].to_numpy(zero_copy_only=False), list(known)))
    attack = pa.array([known[name] for name in table["attack"].to_pylist()], pa.string())
    return table.set_column(table.column_names.index("attack"), "attack", attack)
