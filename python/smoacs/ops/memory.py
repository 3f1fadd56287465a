"""Memory that is freed and needed again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from smoacs.ops._native import kernels


class _Blocks:
    """Number of open blocks, of all threads together."""

    def __init__(self) -> None:
        self._n = 0
        self._lock = Lock()

    def add(self, n: int) -> None:
        with self._lock:
            before, self._n = self._n, self._n + n
            if before == 0 or self._n == 0:
                kernels().keep_freed_memory(self._n > 0)


_BLOCKS = _Blocks()


@contextmanager
def kept_memory() -> Iterator[None]:
    """Keep memory that is freed inside for what is allocated next.

    Each step of a loop allocates the same large arrays. The C library returns such arrays to the
    system when they are freed; to fetch them anew, page by page, took 40 % of a step of a small
    ALIGNN with 256 crystals. The process holds on to its peak of memory until the end of the last
    such block, in whatever thread, then returns all that it can. It concerns the whole process, and
    systems with glibc only.
    """
    _BLOCKS.add(1)
    try:
        yield
    finally:
        _BLOCKS.add(-1)
