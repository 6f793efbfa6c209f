"""The flags of grouped mini-batches, connection mining and smoothed ITC; each method's own page is in the README."""

import argparse

from open_clip_fff.settings.grouping import SCOPES, SOURCES
from open_clip_fff.settings.objective import SPREADS


def add_mafa_flags(parser: argparse.ArgumentParser) -> None:
    """Registers them."""
    grouping = parser.add_argument_group(
        "grouped mini-batches (GRIT): --batch-hooks grit, or --method grit, mafa, cosmo"
    )
    grouping.add_argument(
        "--group-search-space",
        type=int,
        metavar="S",
        help="samples among which neighbours are looked for; more than --batch-size (default: 1920)",
    )
    grouping.add_argument(
        "--group-queue", type=int, metavar="L", help="samples per rank that are read ahead (default: 48000)"
    )
    grouping.add_argument(
        "--group-scope",
        choices=SCOPES,
        help="alike samples make a rank's mini-batch, or, of a CSV, the global one (default: rank)",
    )
    grouping.add_argument(
        "--group-share", type=float, metavar="X", help="share of mini-batches that are grouped (default: 1)"
    )
    grouping.add_argument(
        "--group-quantile",
        type=float,
        metavar="Q",
        help="similarity quantile of the sample that comes next, 1 for the nearest (default: 1)",
    )
    grouping.add_argument(
        "--group-features",
        choices=SOURCES,
        help="of the last epoch's steps (the first epoch is random), or stored beside the images (default: bank)",
    )

    connection = parser.add_argument_group("connection mining by a discriminator (MAFA, COSMO)")
    connection.add_argument(
        "--discriminator",
        metavar="KIND:NAME",
        help="judges the hardest negatives of each step: blip:NAME|DIR, blip2:NAME|DIR, open_clip:MODEL/TAG|DIR by its "
        "cosine, a folder or hub name of either BLIP, or one of your --plugin (default: none)",
    )
    connection.add_argument(
        "--match-positive", type=float, metavar="Q", help="P(match) above which a negative is a positive (default: 0.8)"
    )
    connection.add_argument(
        "--match-negative",
        type=float,
        metavar="Q",
        help="P(match) below which it stays a negative; between the two it is ignored (default: 0.5)",
    )
    connection.add_argument(
        "--match-gate",
        type=float,
        metavar="COS",
        help="ask only about pairs whose mining features are more alike than this (default: ask about all)",
    )
    connection.add_argument(
        "--discriminator-cache", metavar="DIR", help="keep verdicts there, by image and caption (default: nowhere)"
    )
    connection.add_argument(
        "--discriminator-batch", type=int, metavar="N", help="pairs that it judges at a time (default: 64)"
    )
    connection.add_argument(
        "--discriminator-start", type=int, metavar="EPOCH", help="from which epoch on, from 0 (default: 0)"
    )

    itc = parser.add_argument_group("smoothed ITC: --loss s-itc, or --method mafa, cosmo")
    itc.add_argument(
        "--smoothing", type=float, metavar="ALPHA", help="share of the target that is spread evenly (default: 0.5)"
    )
    itc.add_argument(
        "--smoothing-over", choices=SPREADS, help="over all columns, or the rank's own mini-batch (default: all)"
    )
    itc.add_argument("--smoothing-start", type=int, metavar="EPOCH", help="from which epoch on, from 0 (default: 1)")
    itc.add_argument(
        "--itc-stop-gradient",
        action=argparse.BooleanOptionalAction,
        help="GRIT-VLP's: each direction of the softmax leaves its keys alone (default: no)",
    )
    itc.add_argument(
        "--itc-consistency",
        type=float,
        metavar="W",
        help="GRIT-VLP's: weight of a term by which the directions are each other's targets; 0.2 there (default: 0)",
    )
