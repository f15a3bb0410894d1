"""What the C library does with memory that a training step gives back."""

import ctypes

# of <malloc.h>
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Lets this process keep what it frees, for the next step needs as much again; returns whether that could be told.

    glibc maps blocks of more than 32 MB, and gives back the end of its heap beyond 64 MB: then every step meets its memory as
    new pages, which the kernel first has to clear. See mallopt(3). Other C libraries have no such call, and go on as they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl and macOS have none, and Windows no library without a name
        return False
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, NEVER))
