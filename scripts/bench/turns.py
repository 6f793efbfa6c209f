"""The order in which a benchmark's candidates are measured."""

from collections.abc import Iterable, Iterator


def in_turns(names: Iterable[str], rounds: int) -> Iterator[str]:
    """Each name once a round, and another one first in each, so that other load and warm caches affect all alike.

    Example:
        >>> list(in_turns("ab", 2))
        ['a', 'b', 'b', 'a']
    """
    names = list(names)
    for number in range(rounds):
        for place in range(len(names)):
            yield names[(place + number) % len(names)]
