"""How the property tests draw: anew in each run, and a failing case is printed as code that repeats it."""

import os

from hypothesis import HealthCheck, settings

# Seeds are not fixed, so that a fault that one run does not meet may be met by the next. What a run reports is
# reproduced from its own output (`print_blob`), not from a folder of examples that a CI would not have.
# FFF_EXAMPLES=20 makes a long run: 1 is what CI has.
TIMES = float(os.environ.get("FFF_EXAMPLES", "1"))
settings.register_profile(
    "properties",
    print_blob=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("properties")
