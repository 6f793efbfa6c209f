"""What is proposed and what it would do, as a table: for a file, and for a terminal."""

import math

import pandas as pd

from open_clip_fff.config.numbers import cut
from open_clip_fff.tools.calibrate.agreement import Agreement
from open_clip_fff.tools.calibrate.curves import TOGETHER
from open_clip_fff.tools.calibrate.proposal import Proposal
from open_clip_fff.tools.calibrate.rule import Counted

NAMES = ("p1", "p2", "p3")
COSINES = ("image-text", "image-image", "text-text")


def thresholds_table(proposal: Proposal, found: Counted, said: list[Agreement], batch: int) -> pd.DataFrame:
    """One row per clause that is on, and one of all together.

    Returns:
        `clause`; `name` and `threshold`, and `p1_prime` beside p3; `quantile` of its cosines; `mined_per_image` in
        batches of N = `batch`, for which the clause holds, and `only_by_it`; `right`, the share of the image's class,
        where classes are known. Where a judge was asked: `match_above`, `ambiguous_above`, `no_above`, the same
        `_below`, and `half_match` with `half_match_is`, on which side of it half are matches.
    """
    config, right = proposal.config, found.right()
    mined, alone = (found.per_image(pairs, batch).tolist() for pairs in (found.pairs[0], found.alone))
    by_clause, rows = {each.clause: each for each in said}, []
    for clause, (name, cosine) in enumerate(zip(NAMES, COSINES, strict=True)):
        threshold = getattr(config, name)
        if threshold is None:
            continue
        row = {"clause": cosine, "name": name, "threshold": threshold, "quantile": 1 - proposal.shares[clause]}
        row |= {"mined_per_image": mined[clause], "only_by_it": alone[clause]}
        if name == "p3" and config.p1_prime is not None:
            row["p1_prime"] = config.p1_prime
        if clause in by_clause:
            row |= _judged(by_clause[clause])
        rows.append(row | ({} if right is None else {"right": right[clause]}))
    together = {"clause": "any", "mined_per_image": mined[TOGETHER]}
    rows.append(together | ({} if right is None else {"right": right[TOGETHER]}))
    columns = ["clause", "name", "threshold", "p1_prime", "quantile", "mined_per_image", "only_by_it"]
    return pd.DataFrame(rows, columns=columns + ([] if right is None else ["right"]) + (_JUDGED if said else []))


def in_words(table: pd.DataFrame, batch: int) -> str:
    """The table for a terminal."""
    shown = pd.DataFrame({"clause": table["clause"].map(_CLAUSES)})
    shown["threshold"] = [_bar(row) for _, row in table.iterrows()]
    shown["quantile"] = [_number(x, ".6f") for x in table["quantile"]]
    shown["mined/image"] = [_number(x, ".3f") for x in table["mined_per_image"]]
    shown["only by it"] = [_number(x, ".3f") for x in table["only_by_it"]]
    if "right" in table:
        shown["right class"] = [_number(x, ".1%") for x in table["right"]]
    lines = [f"in batches of {batch:,}:", _lines(shown)]
    if "match_above" in table:
        judged = table[table["asked"].notna()]
        said = pd.DataFrame({"the judge of": judged["clause"].map(_CLAUSES)})
        said["pairs"] = judged["asked"].astype(int)
        for part in ("above", "below"):
            for verdict in ("match", "ambiguous", "no"):
                title = f"{_PARTS[part]}: {verdict}" if verdict == "match" else verdict
                shares = [_number(x, ".0%") for x in judged[f"{verdict}_{part}"]]
                said.insert(len(said.columns), title, shares, allow_duplicates=True)
        said["half match at"] = [_half(row) for _, row in judged.iterrows()]
        lines += ["", _lines(said)]
    return "\n".join(lines)


_JUDGED = [f"{verdict}_{part}" for part in ("above", "below") for verdict in ("match", "ambiguous", "no")]
_JUDGED += ["half_match", "half_match_is", "asked"]
_PARTS = {"above": "above", "below": "just below"}
_CLAUSES = {
    "image-text": "S_it > p1",
    "image-image": "S_ii > p2",
    "text-text": "S_tt > p3 and S_it > p1′",
    "any": "any of them",
}


def _judged(said: Agreement) -> dict[str, object]:
    row: dict[str, object] = {}
    for part, shares in (("above", said.above), ("below", said.below)):
        row |= {f"match_{part}": shares.match, f"ambiguous_{part}": shares.ambiguous, f"no_{part}": shares.no}
    asked = said.above.asked + said.below.asked
    return row | {"half_match": said.half, "half_match_is": said.side, "asked": asked}


def _bar(row: pd.Series) -> str:
    if row["clause"] == "any":
        return ""
    first = f"{row['name']} {cut(row['threshold'])}"
    return first if _missing(row["p1_prime"]) else f"{first}, p1′ {cut(row['p1_prime'])}"


def _half(row: pd.Series) -> str:
    side = {"at": "", "above": "> ", "below": "< "}[row["half_match_is"]]
    return f"{side}{row['half_match']:.6f}"


def _number(value: object, form: str) -> str:
    return "" if _missing(value) else format(value, form)


def _missing(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _lines(table: pd.DataFrame) -> str:
    """Text to the left, numbers to the right."""
    left = [name for name in table if name in ("clause", "threshold", "the judge of")]
    for name in left:
        width = max(table[name].str.len().max(), len(name))
        table = table.assign(**{name: table[name].str.ljust(width)}).rename(columns={name: name.ljust(width)})
    return table.to_string(index=False)
