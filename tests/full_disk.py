"""A disk that is full, in this process alone."""

import resource
import signal
import sys
from contextlib import contextmanager


@contextmanager
def full_disk(size: int):
    """No file of this process may become larger: the kernel's EFBIG, where a full disk has ENOSPC."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    compiled, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # Python would keep the beginning of a .pyc
    try:
        yield
    finally:
        sys.dont_write_bytecode = compiled
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
