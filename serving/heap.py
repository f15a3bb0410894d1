"""The memory of the C library, for a server that is sent a whole file with every key."""

import asyncio
import ctypes
import platform

SECONDS = 30.0


def trim() -> None:
    """Gives what is free in the heap back to the system. Does nothing without glibc.

    By itself glibc gives back no more than what is free at the heap's end; between small pieces that stay, large texts leave
    holes, and a process grows by them for a while.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


async def trim_now_and_then(seconds: float = SECONDS) -> None:
    """Never ends. Large pieces taken from the system itself (mallopt) would need none of this, but made a token 7 % slower
    with a vocabulary of 32,768, for a row of scores is as large as a text.
    """
    while True:
        await asyncio.sleep(seconds)
        await asyncio.to_thread(trim)
