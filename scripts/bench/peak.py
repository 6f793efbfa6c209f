"""The most memory that a training step holds, as its user meets it."""

import torch

from bench.steps import Bench, Candidate
from open_clip_fff.host.report.memory import AliveBytes


def peak_bytes(bench: Bench, candidate: Candidate) -> int:
    """Weights, AdamW's moments and the batch, and the most that one step holds beside them.

    That is activations, gradients, and whatever loss and optimizer make: on CUDA by the allocator; on the CPU storages
    that are alive after each operation (what one makes and frees inside itself is not seen). The moments must be there,
    from a step before.
    """
    optimizer = bench.optimizer
    moments = [x for state in optimizer.state.values() for x in state.values() if isinstance(x, torch.Tensor)]
    there = [*candidate.model.parameters(), *candidate.model.buffers(), *moments, *candidate.inputs]
    optimizer.zero_grad()
    if bench.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        bench.step(candidate)
        beside = torch.cuda.max_memory_allocated() - before
    else:
        with AliveBytes(*there) as counted:
            bench.step(candidate)
        beside = counted.peak
    return beside + sum(x.numel() * x.element_size() for x in there)
