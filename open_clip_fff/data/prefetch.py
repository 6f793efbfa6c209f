"""Threads that work on items ahead of their consumer; decoding and resizing release the interpreter's lock."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")


def prefetch_map(work: Callable[[S], T], items: Iterable[S], workers: int) -> Iterator[T]:
    """`map`, in order, with up to four items a thread in progress; a plain `map` without `workers`.

    The order of calls of `work` is not fixed; `items` are iterated in the caller's thread. Errors of both are raised in
    the place of the item.
    """
    if not workers:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(workers) as pool:
        coming: deque[Future[T]] = deque()
        try:
            for item in items:
                coming.append(pool.submit(work, item))
                if len(coming) >= 4 * workers:
                    yield coming.popleft().result()
            while coming:
                yield coming.popleft().result()
        finally:
            for future in coming:
                future.cancel()
