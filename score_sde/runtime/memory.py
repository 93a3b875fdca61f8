"""Memory of the processor, which the C library hands out."""

import ctypes
import sys

# of <malloc.h>
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


def keep_freed() -> None:
    """Makes the C library keep the arrays that are freed, for the next step to use.

    Else glibc gives a large array back to the system at once, and the system clears every page
    before it hands it out again: 10 to 16 % of a training on the digits (measured, one core).
    Other C libraries are left as they are.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
