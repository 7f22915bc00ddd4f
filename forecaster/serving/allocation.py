"""The C library's allocator, told to give the memory of large arrays back.

glibc maps large blocks and unmaps them when they are freed; but it takes the largest block so freed for the new size
from which it maps, up to 32 MB, and what is smaller stays with the process, in pieces between what lives long. Knows
nothing of what is allocated.
"""

import ctypes
import os

# From malloc.h. Each of them, once set, stays as it is.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MAPPED_BYTES = 1 << 20  # a batch's states are larger, what a request of one series needs is far smaller
_KEPT_BYTES = 32 << 20  # at the heap's end, so that it is not shortened and lengthened all the time


def give_back() -> bool:
    """Let blocks of a megabyte or more go back to the system when they are freed; return whether the library can.

    Without glibc nothing changes, nor where the user has set the threshold in the environment.
    """
    if "MALLOC_MMAP_THRESHOLD_" in os.environ or "mmap_threshold" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES) and mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES))
