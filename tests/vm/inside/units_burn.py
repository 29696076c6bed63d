"""A worker of 200 ms: `python3 units_burn.py FILE` writes the CPU seconds it used to FILE."""

import os
import sys
import time

SECONDS = 0.2

while time.process_time() < SECONDS:
    pass
# The rest of an interpreter's end would be used, and not be told of.
with open(sys.argv[1], "w") as out:
    out.write(str(time.process_time()))
    out.flush()
    os._exit(0)
