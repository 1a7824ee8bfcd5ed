#!/usr/bin/env bash
# A maximum over two processes keeps a NaN or loses it, by where in the tensor it stands.
#
# Expected: torch.maximum(NaN, 1) is NaN, so all_reduce with MAX (or MIN) gives NaN wherever one process has a NaN; SUM does.
# Found (torch 2.13.0, backend gloo, 2 processes): every process gets the same numbers, but of 1,000 elements that are NaN in
# one process and 1 in the other, 500 come back as NaN and 500 as 1: of the NaNs of process 0 the second half is lost, of
# those of process 1 the first. Of a tensor of one element, a norm for example, the NaN of process 0 is kept and that of
# process 1 lost. float32, float64, bfloat16 and float16 alike. A check for NaN by a maximum over processes can miss one; a
# sum, or the maximum of isnan(), can't.
#
# Output:
#   SUM, NaN in process 0: 1000 of 1000 are NaN
#   SUM, NaN in process 1: 1000 of 1000 are NaN
#   MAX, NaN in process 0: 500 of 1000 are NaN, elements 0 to 499
#   MAX, NaN in process 1: 500 of 1000 are NaN, elements 500 to 999
#   MIN, NaN in process 0: 500 of 1000 are NaN, elements 0 to 499
#   MIN, NaN in process 1: 500 of 1000 are NaN, elements 500 to 999
#   MAX, one element, NaN in process 0: 1 of 1 is NaN
#   MAX, one element, NaN in process 1: 0 of 1 is NaN
#
# Exit status: 0 while this is so, 1 when it has changed. Uses nothing of unvanish.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy
cat > "$folder/case.py" <<'PYTHON'
import os
import sys

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

OPERATIONS = {"SUM": dist.ReduceOp.SUM, "MAX": dist.ReduceOp.MAX, "MIN": dist.ReduceOp.MIN}
SIZE = 1000


def reduced(rank, name, size, ill, dtype=torch.float32):
    """Which elements are NaN after all_reduce of NaNs in process `ill` and ones in the other."""
    tensor = torch.full((size,), float("nan") if rank == ill else 1.0, dtype=dtype)
    dist.all_reduce(tensor, op=OPERATIONS[name])
    return tensor.isnan().nonzero().flatten().tolist()


def process(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    wanted = {"SUM": [range(SIZE)] * 2, "MAX": [range(500), range(500, SIZE)], "MIN": [range(500), range(500, SIZE)]}
    same = True
    for name, ranges in wanted.items():
        for ill, right in enumerate(ranges):
            seen = reduced(rank, name, SIZE, ill)
            where = "" if len(seen) in (0, SIZE) else f", elements {seen[0]} to {seen[-1]}"
            if rank == 0:
                print(f"{name}, NaN in process {ill}: {len(seen)} of {SIZE} are NaN{where}")
            same &= seen == list(right)
    for ill in (0, 1):
        seen = reduced(rank, "MAX", 1, ill)
        if rank == 0:
            print(f"MAX, one element, NaN in process {ill}: {len(seen)} of 1 is NaN")
        same &= seen == ([0] if ill == 0 else [])
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        same &= len(reduced(rank, "MAX", SIZE, 0, dtype)) == SIZE // 2
    dist.destroy_process_group()
    if not same:
        sys.exit(1)


if __name__ == "__main__":
    try:
        multiprocessing.spawn(process, args=(os.path.dirname(os.path.abspath(__file__)),), nprocs=2)
    except multiprocessing.ProcessExitedException:
        sys.exit(1)
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/case.py"
