"""What our evaluations find, kept where OpenCLIP keeps its own."""

import json
from pathlib import Path

RESULTS = "fff_results.jsonl"  # beside OpenCLIP's results.jsonl, whose readers know its keys
AVERAGE = "ema_"  # before the numbers of the weights' moving average


def keep(values: dict[str, float], epoch: int, data: dict, args, tb_writer) -> None:
    """The numbers where OpenCLIP keeps its own, under other names and in a file of their own."""
    tagged = {f"val/{name}": value for name, value in values.items()}
    if args.save_logs:
        if tb_writer is not None:
            for tag, value in tagged.items():
                tb_writer.add_scalar(tag, value, epoch)
        with (Path(args.checkpoint_path) / RESULTS).open("a") as file:
            file.write(json.dumps({"epoch": epoch, **values}) + "\n")
    if args.wandb:
        import wandb

        steps = data["train"].dataloader.num_batches // args.accum_freq if "train" in data else None
        wandb.log({**tagged, "epoch": epoch}, step=None if steps is None else steps * epoch)
