"""A plug-in whose tenth step takes long, and says so."""

import time

from torch.optim.optimizer import register_optimizer_step_post_hook

STEPS = []


def _linger(*_: object) -> None:
    STEPS.append(1)
    if len(STEPS) == 10:
        print("a long step", flush=True)
        end = time.monotonic() + 60
        while time.monotonic() < end:
            time.sleep(0.05)


register_optimizer_step_post_hook(_linger)
