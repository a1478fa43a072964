"""Per-sample results on disk: one Parquet part a block, written aside and renamed, merged at the end.

In `per_sample.parquet` a row is one sample under one attack: `index`, `label`, `prediction` and `clean_margin` (on the
clean image), `attack`, `broken`, `margin` (on the final image), `distance` (in the attack's norm), `forwards`,
`backwards`. The file's metadata hold `schema: 1`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lit_robust.evaluation.block import BlockResult

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA = 1
PER_SAMPLE = "per_sample.parquet"


class PartStore:
    """A table of rows of samples, in parts that several processes write and one merges.

    Args:
        path: The merged file, `<name>.parquet`; the parts lie in `parts/<name>` beside it until then.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._parts = path.parent / "parts" / path.stem

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
        part = self._parts / f"{block:06d}.parquet"
        aside = part.with_suffix(".part")
        pq.write_table(table, aside)
        os.replace(aside, part)

    def merge(self) -> pa.Table:
        """Merges the parts of all processes into one file, in the order of the samples, and returns it."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        parts = [pq.read_table(part) for part in sorted(self._parts.glob("*.parquet"))]
        table = pa.concat_tables(parts).sort_by("index")  # stable: the rows of a sample keep their order
        aside = self.path.with_suffix(".part")
        pq.write_table(table, aside)
        os.replace(aside, self.path)
        for part in self._parts.iterdir():
            part.unlink()
        self._parts.rmdir()
        if not any(self._parts.parent.iterdir()):
            self._parts.parent.rmdir()
        return table


class SampleStore(PartStore):
    """The per-sample results of one evaluation.

    Args:
        folder: Folder of the evaluation.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / PER_SAMPLE)

    def write(self, block: int, result: BlockResult) -> None:
        """Writes the part of a block in one step as seen by other processes."""
        self.write_table(block, _table(result))


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
            "margin": verdict.margin.cpu().double(),
            "distance": verdict.distance.cpu().double(),
            "forwards": verdict.forwards,
            "backwards": verdict.backwards,
        }
        arrays = {key: pa.array(value.cpu().numpy()) for key, value in columns.items()}
        arrays["attack"] = pa.array([name] * len(result.index))
        tables.append(pa.table(arrays))
    return pa.concat_tables(tables).replace_schema_metadata({"schema": str(SCHEMA)})
