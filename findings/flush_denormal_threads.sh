#!/usr/bin/env bash
# torch.set_flush_denormal(True) makes zeros of denormal numbers in a part of a tensor only: that of the calling thread.
#
# Expected: "Disables denormal floating numbers on CPU" and returns True, so numbers below 1.2e-38 become zero wherever they
# stand in a tensor, and with False none do.
# Found (torch 2.13.0, CPU, Linux): the setting is that of the thread which calls. Threads that share the work of an operation
# have the setting that was in force when they were started, by the first large operation of the program. Set after it, half of
# a gradient of 1e-40 is flushed with two threads, and a quarter with four; set before it, all is, and False then gives back
# that half alone. So how many of a gradient's numbers are zero depends on where the call stands, on how many threads there are,
# and on the size: a tensor that is too small to be shared out is flushed whole. One call beside the imports is heard by all.
#
# Output: where a gradient of 1,000,000 numbers, all 1e-40, is not zero, with two threads:
#   set True when threads run        500000  500000 to 999999
#   set True before any runs         0
#   and set False after that         500000  0 to 499999
#   set True, 1,000 numbers          0
#
# Exit status: 0 while this is so, 1 when it has changed. Uses nothing of unvanish.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy
cat > "$folder/case.py" <<'PYTHON'
import subprocess
import sys

import torch

SIZE = 1_000_000
TINY = 71362  # the bits of 1e-40: as an integer it is written whatever is set
CASES = {  # the settings, each followed by a backward; how many numbers; what is not zero in the last gradient
    "set True when threads run": ((False, True), SIZE, "500000  500000 to 999999"),
    "set True before any runs": ((True,), SIZE, "0"),
    "and set False after that": ((True, False), SIZE, "500000  0 to 499999"),
    "set True, 1,000 numbers": ((False, True), 1000, "0"),
}


def not_zero(settings, size):
    """How many numbers of the gradient of sum(weight · 1e-40) are not zero, and which."""
    torch.set_num_threads(2)
    for setting in settings:
        if not torch.set_flush_denormal(setting):
            sys.exit("this processor cannot flush denormals")
        weight = torch.ones(size, requires_grad=True)
        (weight * torch.full((size,), TINY, dtype=torch.int32).view(torch.float32)).sum().backward()
    places = weight.grad.view(torch.int32).nonzero().flatten().tolist()
    return f"{len(places)}  {places[0]} to {places[-1]}" if places else "0"


if len(sys.argv) > 1:
    print(not_zero(*CASES[sys.argv[1]][:2]))
    sys.exit()
same = True
for name, (_, _, expected) in CASES.items():  # each in a program of its own, with threads of its own
    command = [sys.executable, __file__, name]
    seen = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    print(f"{name:33}{seen}")
    same &= seen == expected
sys.exit(not same)
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/case.py"
