"""Per-sample results on disk: one Parquet part a block, written aside and renamed, merged at the end.

In `per_sample.parquet` a row is one sample under one attack: `index`, `label`, `prediction` and `clean_margin` (on the
clean image), `attack`, `broken`, `right` and `right_before` (shares of a random network's draws, else 0 or 1), `margin`
(on the final image), `distance` (in the attack's norm), `survives_8_bit`, `forwards`, `backwards`. The file's metadata
hold `schema: 2`.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lit_robust.errors import UserError
from lit_robust.evaluation.verdict import BlockResult

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA = 2
_ABOUT = "lit_robust"  # key of a part's metadata
PER_SAMPLE = "per_sample.parquet"


class PartStore:
    """A table of rows of samples, in parts that several processes write and one merges.

    Args:
        path: The merged file, `<name>.parquet`; the parts lie in `parts/<name>` beside it until then.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._parts = path.parent / "parts" / path.stem

    def rows(self, block: int) -> int | None:
        """Rows of the part of a block that is there already, or None; a part that cannot be read is none."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return int(pq.read_metadata(self._part(block)).num_rows)
        except (OSError, pa.ArrowException):
            return None

    def clear(self) -> None:
        """Removes the parts: all is done, or nobody goes on with what an interrupted evaluation left."""
        remove_parts(self._parts)

    def _part(self, block: int) -> Path:
        return self._parts / f"{block:06d}.parquet"

    def write_columns(self, block: int, columns: Mapping[str, Any]) -> None:
        """Writes the part of a block in one step as seen by other processes.

        Args:
            block: Number of the block.
            columns: Columns of one length by name, among them `index`: tensors or lists; a tensor of more than one
                dimension becomes a column of lists.
        """
        import pyarrow as pa

        arrays = {name: pa.array(c if isinstance(c, list) else c.cpu().tolist()) for name, c in columns.items()}
        self.write_table(block, pa.table(arrays))

    def write_table(self, block: int, table: pa.Table) -> None:
        """Writes the part of a block, as `write_columns`."""
        import pyarrow.parquet as pq

        self._parts.mkdir(parents=True, exist_ok=True)
        part = self._part(block)
        aside = part.with_suffix(".part")
        pq.write_table(table, aside)
        os.replace(aside, part)

    def merge(self) -> pa.Table:
        """Merges the parts of all processes into one file, in the order of the samples, and returns it."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        parts = [pq.read_table(part) for part in sorted(self._parts.glob("*.parquet"))]
        table = pa.concat_tables([part.replace_schema_metadata({"schema": str(SCHEMA)}) for part in parts])
        table = table.sort_by("index")  # stable: the rows of a sample keep their order
        aside = self.path.with_suffix(".part")
        pq.write_table(table, aside)
        os.replace(aside, self.path)
        return table


class SampleStore(PartStore):
    """The per-sample results of one evaluation.

    Args:
        folder: Folder of the evaluation.

    Attributes:
        seconds: Time that each attack took over all blocks, known once they are merged.
        random: Whether the network drew noise in any block, known then.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / PER_SAMPLE)
        self.seconds: Counter[str] = Counter()
        self.random = False

    def write(self, block: int, result: BlockResult) -> None:
        """Writes the part of a block in one step as seen by other processes."""
        about = {
            "seconds": {name: verdict.seconds for name, verdict in result.verdicts.items()},
            "random": result.random,
        }
        self.write_table(block, _table(result).replace_schema_metadata({_ABOUT: json.dumps(about)}))

    def merge(self) -> pa.Table:
        """As `PartStore.merge`, and sums up what the parts say about themselves."""
        import pyarrow.parquet as pq

        for part in sorted(self._parts.glob("*.parquet")):
            about = json.loads(pq.read_schema(part).metadata[_ABOUT.encode()])
            self.seconds.update(about["seconds"])
            self.random |= about["random"]
        return super().merge()


def remove_parts(parts: Path) -> None:
    """Removes a folder of parts, and the one that it is in if that was the last."""
    shutil.rmtree(parts, ignore_errors=True)
    with suppress(OSError):  # others' parts are there, or there is none
        parts.parent.rmdir()


@contextmanager
def writing(folder: Path, what: str) -> Iterator[None]:
    """Context in which results are written.

    Args:
        folder: Folder of the test.
        what: What is written, for the message.

    Raises:
        UserError: If the disk is full or cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {what} to {folder}: {error.strerror or error}; blocks that were done before are kept, and "
            "the same command goes on with them"
        ) from error


def _table(result: BlockResult) -> pa.Table:
    import pyarrow as pa

    tables = []
    for name, verdict in result.verdicts.items():
        columns = {
            "index": result.index,
            "label": result.label,
            "prediction": result.prediction,
            "clean_margin": result.margin.cpu().double(),
            "broken": verdict.broken,
            "right": verdict.right.cpu().double(),
            "right_before": verdict.right_before.cpu().double(),
            "margin": verdict.margin.cpu().double(),
            "distance": verdict.distance.cpu().double(),
            "survives_8_bit": verdict.survives,
            "forwards": verdict.forwards,
            "backwards": verdict.backwards,
        }
        arrays = {key: pa.array(value.cpu().numpy()) for key, value in columns.items()}
        arrays["attack"] = pa.array([name] * len(result.index))
        tables.append(pa.table(arrays))
    return pa.concat_tables(tables)
