"""A training run in a process of its own that prints when each step ended, for scripts/bench_start.py.

    python scripts/bench/first_steps.py stock|ours BEGAN CONFIG FLAGS...

BEGAN is the clock when the process was started, CONFIG an architecture's json. The last line printed is a json list of
[seconds since BEGAN, processor seconds of this process] for each step.
"""

import json
import sys
import time
from functools import partial


def main(who: str, began: str, config: str, *flags: str) -> int:
    """Trains, and prints the times."""
    if who == "stock":
        import open_clip_train.data as oc_data
        from open_clip_train.main import main as train

        # webdataset >= 0.2.90 ends each shard with an empty sample: a KeyError in OpenCLIP's grouping
        oc_data.tar_file_expander = partial(oc_data.tar_file_expander, eof_value=None)
    else:
        from open_clip_fff.train import main as train
    import open_clip
    from torch.optim.optimizer import register_optimizer_step_post_hook

    open_clip.add_model_config(config)
    ends: list[tuple[float, float]] = []
    register_optimizer_step_post_hook(lambda *_: ends.append((time.perf_counter() - float(began), time.process_time())))
    code = train(list(flags)) or 0
    print(json.dumps(ends), flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
