"""One run: checks the flags, replaces names in OpenCLIP, calls its main, and restores everything."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import open_clip
import open_clip_train.main as oc_main

import open_clip_fff
from open_clip_fff.config.consistency import idle_notes
from open_clip_fff.config.plan import Plan
from open_clip_fff.data.data_sets import trains
from open_clip_fff.data.preview_text import preview_lines
from open_clip_fff.data.row_counts import RowCounts
from open_clip_fff.data.training_data import (
    check_validation_data,
    preview_training_data,
    training_pairs,
    with_data_sets,
)
from open_clip_fff.errors import UsageError, print_warnings
from open_clip_fff.host.checkpoints.extra_state import extra_state
from open_clip_fff.host.checkpoints.mid_epoch import mid_epoch_seams
from open_clip_fff.host.checkpoints.resume_point import ResumeCheckpoint, find_resume_checkpoint
from open_clip_fff.host.checkpoints.resuming import resuming
from open_clip_fff.host.checks.changed_settings import change_notes
from open_clip_fff.host.checks.data import sidecar_notes, validation_notes
from open_clip_fff.host.checks.epoch_length import check_table_rows, check_tar_rows, forecast_epochs, rows_of_data
from open_clip_fff.host.checks.flags_and_files import check_host
from open_clip_fff.host.checks.idle_flags import idle_flag_notes, imagenet_notes
from open_clip_fff.host.checks.launch import check_launch, precision_notes
from open_clip_fff.host.checks.weights import check_weights, context_length, setting_notes
from open_clip_fff.host.command import Command, check_names
from open_clip_fff.host.fixes import fixes, image_reader
from open_clip_fff.host.generation import TASKS
from open_clip_fff.host.loader.data import data_factory
from open_clip_fff.host.log_levels import logging_put_back, set_up_logging
from open_clip_fff.host.model import model_factory
from open_clip_fff.host.optimizer import optimizer_seams
from open_clip_fff.host.peers import bounded_waits
from open_clip_fff.host.report.plan_log import plan_text
from open_clip_fff.host.report.trackers import trackers
from open_clip_fff.host.startup import startup
from open_clip_fff.host.state import RunState
from open_clip_fff.host.stopping import Stopped
from open_clip_fff.host.validation import evaluator
from open_clip_fff.hub.checkpoints import read_epoch
from open_clip_fff.hub.training_flags import import_plugins
from open_clip_fff.models.frozen import load_frozen
from open_clip_fff.models.sentences import load_sentences
from open_clip_fff.patching import replaced

if TASKS:
    from open_clip_fff.host.v4 import seams as own_seams
else:
    from open_clip_fff.host.v3 import seams as own_seams


def run(command: Command) -> int:
    """Trains; returns 0, or 128 plus the signal's number where a signal ended training with a checkpoint.

    Raises UsageError for what the user can fix, before training starts where that can be known.
    """
    try:
        _train(command)
    except Stopped as stopped:
        return stopped.code
    return 0


def _train(command: Command) -> None:
    args, plan = command.args, command.plan
    check_launch(args)
    plan = with_data_sets(plan, args.train_data)
    with bounded_waits(plan.safety.timeout) as peers, startup(args, peers) as last_logged:
        if plan.given:
            import_plugins(plan)
            check_names(plan)  # which the plugins may have registered
        found = check_host(args, plan)
        check_weights(args, plan)
        resumed = find_resume_checkpoint(args, plan)
        rows = rows_of_data(args, plan)
        epoch = 0 if resumed.checkpoint is None else read_epoch(resumed.checkpoint) or 0
        warnings, rows_line = forecast_epochs(args, plan, rows, epoch)
        if epoch >= args.epochs and trains(args):
            total = f"warning: --epochs {args.epochs}: is the total"
            found.append(f"{total}; {resumed.checkpoint} has trained {epoch}: nothing is left")
        found += change_notes(args, plan, resumed.checkpoint)
        found += resumed.notes
        if args.rank == 0:  # which prints them; a record is read for each shard
            found += [*sidecar_notes(args, plan), *validation_notes(args, plan)]
        _warn(args, plan, [*found, *warnings])
        if plan.given:
            plan = _introduced(args, plan, rows, epoch, rows_line)
            _fill(args, plan)
        state = RunState(args, plan, peers.loaders, rows=rows)
        peers.stopping = state.stopping
        with logging_put_back(last_logged), _seams(_loaded(state), resumed):
            if oc_main.main(command.rest) == -1:  # OpenCLIP's way of giving up
                raise UsageError(f"OpenCLIP gave up: {last_logged.text or 'its own line above says why'}")


def _loaded(state: RunState) -> RunState:
    """Loads the mining model, given pairs and zero-shot sets early: what is missing should fail first."""
    plan, cache = state.plan, state.args.cache_dir
    if plan.features == "frozen" and plan.miner is not None:
        state.frozen = load_frozen(plan.miner, cache)
    if plan.features == "text" and plan.miner is not None:
        state.sentences = load_sentences(plan.miner.model, cache)
    state.pairs = training_pairs(plan, state.args)
    if state.pairs is not None and state.master:
        print("\n".join(state.pairs.lines), flush=True)
    if plan.zero_shot is not None:
        # imports clip-benchmark and scikit-learn, which takes half as long as torch
        from open_clip_fff.host.zero_shot import find_zero_shot_sets

        state.zero_shot_sets = find_zero_shot_sets(plan.zero_shot)
    return state


def _fill(args, plan: Plan) -> None:
    """Adds our flags' values to the namespace, for OpenCLIP's params.txt; sets its --siglip where that is the loss."""
    for name, value in {"method": plan.method, **plan.values}.items():
        setattr(args, name, value)
    if plan.loss.name == "siglip":
        args.siglip = True


def _warn(args, plan: Plan, more: Sequence[str]) -> None:
    """Prints warnings on flags that work but may not be meant; on rank 0."""
    if args.rank == 0:
        notes = [*more, *precision_notes(args), *setting_notes(args)]
        notes += [*idle_notes(plan), *idle_flag_notes(args), *imagenet_notes(args)]
        print_warnings(notes)


def _introduced(args, plan: Plan, counts: RowCounts, first_epoch: int, rows: str) -> Plan:
    """The plan completed by the data, which every rank checks; rank 0 prints it, the coverage, and three rows."""
    plan, previews, captions = preview_training_data(args, plan)
    check_table_rows(args, previews)
    check_tar_rows(args, plan, counts, first_epoch)
    check_validation_data(args, plan)
    if args.rank != 0:
        return plan
    print(f"open_clip_fff {open_clip_fff.__version__} on OpenCLIP {open_clip.__version__}")
    print(plan_text(args, plan))
    if previews:
        print("\n".join(preview_lines(previews, captions, context_length(args))))
    if rows:
        print(f"Rows: {rows}")
    print(flush=True)
    return plan


@contextmanager
def _seams(state: RunState, resumed: ResumeCheckpoint) -> Iterator[None]:
    """Replaces all names in OpenCLIP that we supply, for the length of one run."""
    with (
        fixes(state.counters, state.args.seed, image_reader(state.plan)),
        mid_epoch_seams(state),
        optimizer_seams(state, resumed),
        extra_state(state),
        resuming(state, resumed),
        trackers(state.args),
        replaced(
            oc_main,
            parse_args=lambda _: state.args,
            create_model_and_transforms=model_factory(state, oc_main.create_model_and_transforms),
            setup_logging=partial(set_up_logging, oc_main.setup_logging),
            get_data=data_factory(state, oc_main.get_data),
            evaluate=evaluator(state, oc_main.evaluate),
            **own_seams(state),
        ),
    ):
        yield
