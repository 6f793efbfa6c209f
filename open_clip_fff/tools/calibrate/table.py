"""Tables: the proposed thresholds and what they would mine, for a file and a terminal; false negatives of batches."""

from typing import Any

import numpy as np
import pandas as pd

from open_clip_fff.config.numbers import threshold_text
from open_clip_fff.tools.calibrate.agreement import ClauseAgreement, MatchShares
from open_clip_fff.tools.calibrate.counts import MinedCounts
from open_clip_fff.tools.calibrate.curves import TOGETHER
from open_clip_fff.tools.calibrate.proposal import Proposal

BATCHES = 2 ** np.arange(4, 17)  # N
THRESHOLD_COLUMNS = ("clause", "name", "threshold", "p1_prime", "quantile", "mined_per_image", "only_by_it")
CLAUSE_NAMES = ("p1", "p2", "p3")
COSINES = ("image-text", "image-image", "text-text")
_MATCH_COLUMNS = [f"{label}_{side}" for side in ("above", "below") for label in MatchShares._fields]
_MATCH_COLUMNS += ["half_match", "half_match_is", "asked"]
_CLAUSES = {
    "image-text": "S_it > p1",
    "image-image": "S_ii > p2",
    "text-text": "S_tt > p3 and S_it > p1′",
    "any": "any of them",
}
_SCORED = "match scores of"


def thresholds_table(
    proposal: Proposal, counts: MinedCounts, agreements: list[ClauseAgreement], batch: int
) -> pd.DataFrame:
    """One row per clause that is on, and one for all together.

    Columns are `clause`; `name` and `threshold`, and `p1_prime` beside p3; `quantile` of its cosines; `mined_per_image`
    in batches of N = `batch`, for which the clause holds, and `only_by_it`; `right`, the share of the image's class, if
    classes are known. With match scores: `match_above`, `ambiguous_above`, `no_above`, the same `_below`; `half_match`,
    and `half_match_is`, on which side of it half are matches; `asked`, how many pairs were scored.
    """
    config, right = proposal.config, counts.right()
    mined, only = (counts.per_image(pairs, batch).tolist() for pairs in (counts.pairs[0], counts.only))
    by_clause, rows = {each.clause: each for each in agreements}, []
    for clause, (name, cosine) in enumerate(zip(CLAUSE_NAMES, COSINES, strict=True)):
        threshold = getattr(config, name)
        if threshold is None:
            continue
        row = {"clause": cosine, "name": name, "threshold": threshold, "quantile": 1 - proposal.shares[clause]}
        row |= {"mined_per_image": mined[clause], "only_by_it": only[clause]}
        if name == "p3" and config.p1_prime is not None:
            row["p1_prime"] = config.p1_prime
        if clause in by_clause:
            _, above, below, *others = by_clause[clause]
            row |= dict(zip(_MATCH_COLUMNS, (*above, *below, *others), strict=True))
        rows.append(row | ({} if right is None else {"right": right[clause]}))
    together = {"clause": "any", "mined_per_image": mined[TOGETHER]}
    rows.append(together | ({} if right is None else {"right": right[TOGETHER]}))
    columns = [*THRESHOLD_COLUMNS, *([] if right is None else ["right"]), *(_MATCH_COLUMNS if agreements else [])]
    return pd.DataFrame(rows, columns=columns)


def format_table(table: pd.DataFrame, batch: int) -> str:
    """The table for a terminal."""
    shown = pd.DataFrame({"clause": table["clause"].map(_CLAUSES)})
    shown["threshold"] = [_threshold(row) for _, row in table.iterrows()]
    shown["quantile"] = [_number(x, ".6f") for x in table["quantile"]]
    shown["mined/image"] = [_number(x, ".3f") for x in table["mined_per_image"]]
    shown["only by it"] = [_number(x, ".3f") for x in table["only_by_it"]]
    if "right" in table:
        shown["right class"] = [_number(x, ".1%") for x in table["right"]]
    lines = [f"in batches of {batch:,}:", _aligned(shown)]
    if "match_above" in table:
        scored = table[table["asked"].notna()]
        matches = pd.DataFrame({_SCORED: scored["clause"].map(_CLAUSES)})
        matches["pairs"] = scored["asked"].astype(int)
        for side, title in (("above", "above"), ("below", "just below")):
            for label in MatchShares._fields:
                shares = [_number(x, ".0%") for x in scored[f"{label}_{side}"]]
                header = f"{title}: {label}" if label == "match" else label
                matches.insert(len(matches.columns), header, shares, allow_duplicates=True)
        matches["half match at"] = [_half(row) for _, row in scored.iterrows()]
        lines += ["", _aligned(matches)]
    return "\n".join(lines)


def false_negatives(labels: np.ndarray, batches: np.ndarray = BATCHES) -> pd.DataFrame:
    """How many negatives of a batch are false, if images of one class match each other's captions.

    `labels` are classes int64 [n] of a sample, all known; `batches` global batch sizes N. Returns one row per N:
    `batch`; `per_image`, other images of its class that an image meets on average; `share`, images that meet one at
    all. Batches are drawn from data with the sample's shares of classes.
    """
    counts = np.bincount(np.unique(labels, return_inverse=True)[1])
    shares = counts / counts.sum()
    rows = [
        (batch, (batch - 1) * float((shares**2).sum()), float((shares * (1 - (1 - shares) ** (batch - 1))).sum()))
        for batch in batches.tolist()
    ]
    return pd.DataFrame(rows, columns=["batch", "per_image", "share"])


def _threshold(row: pd.Series) -> str:
    if row["clause"] == "any":
        return ""
    first = f"{row['name']} {threshold_text(row['threshold'])}"
    return first if pd.isna(row["p1_prime"]) else f"{first}, p1′ {threshold_text(row['p1_prime'])}"


def _half(row: pd.Series) -> str:
    side = {"at": "", "above": "> ", "below": "< "}[row["half_match_is"]]
    return f"{side}{row['half_match']:.6f}"


def _number(value: Any, form: str) -> str:
    return "" if pd.isna(value) else format(value, form)


def _aligned(table: pd.DataFrame) -> str:
    """Text to the left, numbers to the right."""
    for name in [name for name in table if name in ("clause", "threshold", _SCORED)]:
        width = max(table[name].str.len().max(), len(name))
        table = table.assign(**{name: table[name].str.ljust(width)}).rename(columns={name: name.ljust(width)})
    return table.to_string(index=False)
