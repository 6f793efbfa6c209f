"""Builds our loss with its assignment from a run's plan and hooks."""

import logging
from dataclasses import replace

import torch

from open_clip_fff.errors import UsageError
from open_clip_fff.hooks.registry import LabelsMatches
from open_clip_fff.host.state import RunState
from open_clip_fff.losses.criterion import Criterion
from open_clip_fff.losses.registry import LOSSES, LossContext
from open_clip_fff.mining.connections import ConnectionMiner
from open_clip_fff.mining.given import GivenPairs, ListedPairs


def make_loss(state: RunState) -> Criterion:
    """Builds a run's loss, once its data, hooks and resumed state exist.

    Raises UsageError for a loss with parameters: OpenCLIP's optimizer trains the model's alone.
    """
    plan, args = state.plan, state.args
    if args.world_size > 1 and args.loss_dist_impl == "ring":
        logging.info(f"Loss {plan.loss.name}: texts and what mines go round the ranks, with gradient.")
    elif args.world_size > 1 and not (args.local_loss and args.gather_with_grad):
        logging.info(f"Loss {plan.loss.name} gathers with gradient, whatever --gather-with-grad says.")
    settings = replace(plan.loss, dist_impl=args.loss_dist_impl or plan.loss.dist_impl)  # OpenCLIP's own flag
    context = LossContext(args.rank, args.world_size, settings, args.batch_size)
    loss = LOSSES[plan.loss.name].build(context).to(args.device)
    if learnt := [name for name, parameter in loss.named_parameters() if parameter.requires_grad]:
        raise UsageError(
            f"--loss {plan.loss.name}: its parameters would never be trained ({', '.join(learnt)}), since the "
            f"optimizer has the model's alone: make them buffers"
        )
    online = plan.features == "online"
    given = _given_pairs(state)
    state.criterion = Criterion(loss, plan.mining, args.rank, args.world_size, args.accum_freq, online, given)
    state.criterion.keep_last = bool(state.step_observers)
    state.criterion.connections = _connections(state)
    state.criterion.fusion = state.fusion
    if state.extra is not None and state.criterion.miner is not None and "miner" in state.extra:
        state.criterion.miner.load_state_dict(state.extra["miner"], torch.device(args.device))
    return state.criterion


def _given_pairs(state: RunState) -> GivenPairs | None:
    """The pairs that the user gives by --positive-key and --positives; None if neither is given."""
    listed = None
    if state.pairs is not None:
        listed = ListedPairs.of(torch.from_numpy(state.pairs.pairs)).to(state.args.device)
    elif state.plan.captions.positive_key is None:
        return None
    return GivenPairs(state.key_label, listed)


def _connections(state: RunState) -> ConnectionMiner | None:
    """Labels hardest negatives by the discriminator; without one, counts their classes in grouped mini-batches."""
    labelling, settings = [hook for hook in state.hooks if isinstance(hook, LabelsMatches)], state.plan.connection
    if labelling and settings is not None:
        return ConnectionMiner(labelling[0].label_matches, settings.gate, settings.start)
    return None if state.plan.grouping is None else ConnectionMiner(None)
