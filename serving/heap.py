"""Memory that nobody needs goes back to the system, in a server that is sent a whole file with every key."""

import asyncio
import ctypes
import gc
import platform

SECONDS = 30.0


def trim() -> None:
    """Frees what only refers to itself, and gives what is free in the heap back to the system, where that is glibc's.

    Requests and their futures refer to each other, and hold texts and tables: few objects but much memory, and Python collects
    by the number of objects. glibc gives back no more than what is free at the heap's end; between small pieces that stay,
    large texts leave holes, and a process grows by them for a while.
    """
    gc.collect()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def settle() -> None:
    """To be called when everything is imported: what there is stays, and collections need not look through it again.

    Not after a model is loaded: one that is swapped out would stay with all that it knows of projects.
    """
    gc.collect()
    gc.freeze()


async def trim_now_and_then(seconds: float = SECONDS) -> None:
    """Never ends. Large pieces taken from the system itself (mallopt) would need none of this, but made a token 7 % slower
    with a vocabulary of 32,768, for a row of scores is as large as a text.
    """
    while True:
        await asyncio.sleep(seconds)
        await asyncio.to_thread(trim)
