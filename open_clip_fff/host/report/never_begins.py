"""What is to begin later in a run than the run lasts."""

from open_clip_fff.config.plan import Plan


def never_begins(plan: Plan, steps: int, epochs: int) -> list[str]:
    """A sentence on each part of a plan that the run will not see.

    Args:
        plan: of the run.
        steps: optimizer steps in all of it.
        epochs: likewise.
    """
    found, mining, connection, smoothing = [], plan.mining, plan.connection, plan.loss.smoothing
    if mining is not None and mining.warmup >= steps:
        found.append(f"--mining-warmup {mining.warmup:,}: the run has {steps:,} steps, so nothing will be mined.")
    if connection is not None and connection.start >= epochs:
        found.append(f"--discriminator-start {connection.start}: {_last(epochs)}, so it will never be asked.")
    if plan.loss.name == "s-itc" and smoothing.alpha and smoothing.start >= epochs:
        found.append(f"--smoothing-start {smoothing.start}: {_last(epochs)}, so no target will be smoothed.")
    return found


def _last(epochs: int) -> str:
    return f"the last epoch is {epochs - 1}"
