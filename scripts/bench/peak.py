"""The peak memory of a training step."""

import torch

from bench.memory import AliveBytes
from bench.steps import Bench, Candidate


def peak_bytes(bench: Bench, candidate: Candidate) -> int:
    """Weights, AdamW's moments and the batch, and the peak of what one step allocates besides.

    That is activations, gradients, and what loss and optimizer allocate: by the allocator's count on CUDA, by storages
    that are alive after each operation on the CPU (not those that an operation frees itself). Needs a step before,
    which creates the moments.
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
