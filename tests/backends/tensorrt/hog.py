"""A process that takes the GPU's memory: for each number on its input it takes all but so many MiB, and says when it has."""

from __future__ import annotations

import sys

import pycuda.autoinit  # noqa: F401
import pycuda.driver as cuda

taken = []
print("ready", flush=True)
for line in sys.stdin:
    left, step = int(line) << 20, 1 << 36
    while step >= 1 << 21:
        if cuda.mem_get_info()[0] - step >= left:
            try:
                taken.append(cuda.mem_alloc(step))
                continue
            except cuda.MemoryError:
                pass
        step >>= 1
    print(cuda.mem_get_info()[0] >> 20, flush=True)
