"""`text_valid`, the name of a loss's `caption_valid` before 0.2: accepted until 0.3, with a warning."""

import functools
import warnings
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast

OLD, NEW = "text_valid", "caption_valid"

F = TypeVar("F", bound=Callable[..., Any])


def takes_old_name(function: F) -> F:
    """Lets a function or method with `caption_valid` be called with `text_valid=`, with a FutureWarning."""

    @functools.wraps(function)
    def renamed(*args: Any, **kwargs: Any) -> Any:
        if OLD in kwargs:
            method = args and hasattr(type(args[0]), function.__name__)
            name = type(args[0]).__name__ if method else function.__name__
            # whoever calls a module is torch to Python, which shows a DeprecationWarning to __main__ alone
            warnings.warn(warning(name), FutureWarning, stacklevel=2)
            kwargs[NEW] = kwargs.pop(OLD)
        return function(*args, **kwargs)

    return cast(F, renamed)


def has_old_name(names: Iterable[str]) -> bool:
    """Whether a loss's arguments are those of before 0.2."""
    return OLD in names and NEW not in names


def warning(name: str) -> str:
    """The warning about a loss or function of this name."""
    return f"{name}: {OLD} is called {NEW} since open_clip_fff 0.2; the old name works until 0.3."
