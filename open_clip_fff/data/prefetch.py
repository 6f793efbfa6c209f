"""Work on items in threads, some items ahead of who asks for them: decoding and resizing let other threads run."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")


def prefetch_map(work: Callable[[S], T], items: Iterable[S], workers: int) -> Iterator[T]:
    """`map`, in order, with up to four items a thread in the making.

    Args:
        work: it must not depend on the order of its calls.
        items: they are taken one after the other, in the caller's thread.
        workers: threads; with 0 it is `map`.

    Raises:
        Exception: what `work` or `items` raise, where its item would have come.
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
