#!/usr/bin/env bash
# Rows with NaN disappear when a Parquet file is filtered: pyarrow and DuckDB skip them by statistics that left NaN out.
#
# Expected: a filter on a file gives the rows that the same filter gives on the table in memory. A trial that diverged has
# the accuracy NaN, and "isnan(accuracy)" or "accuracy <> 1" finds it.
# Found (pyarrow 26.0.1, DuckDB 2.0.1, polars 2.1.0): of four trials with accuracies 1, 1, NaN, NaN, written by pyarrow,
# the file's statistics say that smallest and largest are 1. pyarrow and DuckDB skip the whole row group for "<> 1", for
# ">= 1.5" (DuckDB puts NaN above every number) and for isnan itself, and DuckDB's max(accuracy) is 1 instead of NaN.
# polars reads the file and finds the rows, but files that polars writes have such statistics too. With files that DuckDB
# wrote, or that were written without statistics of that column, all three find the rows.
#
# Output:
#   wanted                             in memory       from the file
#   pyarrow  accuracy != 1             [2, 3]          []
#   pyarrow  is_nan(accuracy)          [2, 3]          []
#   DuckDB   accuracy <> 1             [2, 3]          []
#   DuckDB   isnan(accuracy)           [2, 3]          []
#   DuckDB   max(accuracy)             nan             1.0
#   polars   accuracy != 1             [2, 3]          [2, 3]
#   pyarrow  is_nan, polars wrote it   [2, 3]          []
#   pyarrow  is_nan, DuckDB wrote it   [2, 3]          [2, 3]
#   pyarrow  is_nan, no statistics     [2, 3]          [2, 3]
#
# Exit status: 0 while this is so, 1 when it has changed. Uses nothing of unvanish.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pyarrow==26.0.1 duckdb==2.0.1 polars==2.1.0
cat > "$folder/case.py" <<'PYTHON'
import sys

import duckdb
import polars
import pyarrow
import pyarrow.compute as pc
import pyarrow.parquet as pq

nan = float("nan")
trials = pyarrow.table({"trial": [0, 1, 2, 3], "accuracy": [1.0, 1.0, nan, nan]})
pq.write_table(trials, "arrow.parquet")
pq.write_table(trials, "bare.parquet", write_statistics=["trial"])
polars.from_arrow(trials).write_parquet("polars.parquet")
duckdb.sql("CREATE TABLE memory_ AS SELECT * FROM trials")
duckdb.sql("COPY memory_ TO 'duckdb.parquet'")


def arrow(wanted, file=None):
    kept = trials.filter(wanted) if file is None else pq.read_table(file, filters=wanted)
    return kept["trial"].to_pylist()


def duck(wanted, source):
    return [row[0] for row in duckdb.sql(f"SELECT {wanted[0]} FROM {source} {wanted[1]}").fetchall()]


accuracy, other, lost = pc.field("accuracy"), ("trial", "WHERE accuracy <> 1"), ("trial", "WHERE isnan(accuracy)")
frames = polars.from_arrow(trials).lazy(), polars.scan_parquet("arrow.parquet")
rows = {
    "pyarrow  accuracy != 1": (arrow(accuracy != 1.0), arrow(accuracy != 1.0, "arrow.parquet")),
    "pyarrow  is_nan(accuracy)": (arrow(pc.is_nan(accuracy)), arrow(pc.is_nan(accuracy), "arrow.parquet")),
    "DuckDB   accuracy <> 1": (duck(other, "memory_"), duck(other, "'arrow.parquet'")),
    "DuckDB   isnan(accuracy)": (duck(lost, "memory_"), duck(lost, "'arrow.parquet'")),
    "DuckDB   max(accuracy)": tuple(duck(("max(accuracy)", ""), s)[0] for s in ("memory_", "'arrow.parquet'")),
    "polars   accuracy != 1": tuple(f.filter(polars.col("accuracy") != 1.0).collect()["trial"].to_list() for f in frames),
    "pyarrow  is_nan, polars wrote it": (arrow(pc.is_nan(accuracy)), arrow(pc.is_nan(accuracy), "polars.parquet")),
    "pyarrow  is_nan, DuckDB wrote it": (arrow(pc.is_nan(accuracy)), arrow(pc.is_nan(accuracy), "duckdb.parquet")),
    "pyarrow  is_nan, no statistics": (arrow(pc.is_nan(accuracy)), arrow(pc.is_nan(accuracy), "bare.parquet")),
}
print(f"{'wanted':34} {'in memory':15} from the file")
for name, (here, there) in rows.items():
    print(f"{name:34} {here!s:15} {there}")
found, lost = [2, 3], []
expected = [lost, lost, lost, lost, 1.0, found, lost, found, found]
sys.exit([there for _, there in rows.values()] != expected or rows["pyarrow  is_nan(accuracy)"][0] != found)
PYTHON
cd "$folder" && venv/bin/python case.py
