"""Processor time, which other load on the machine hardly affects."""

import resource


def processor_seconds() -> float:
    """Of this process and of those that it started and that have ended, user and system."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)
