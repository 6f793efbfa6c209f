"""Tables of the study of the fusion model, from its CSVs."""

from pathlib import Path

import pandas as pd
from digits.study import markdown

WAYS = ("image → text", "text → image")
CHANGES = {"against its ITC": "re-ranking: ", "against plain": "against plain, "}


def report(results: Path) -> str:
    """Everything that docs/fusion-study.md shows; also writes it to tables.md."""
    found = {path.stem: pd.read_csv(path) for path in sorted(results.glob("*.csv"))}
    tables = {name: make(found[name]) for name, make in TABLES.items() if name in found}
    text = "\n".join(f"## {name}\n\n{table}" for name, table in tables.items())
    (results / "tables.md").write_text(text)
    return text


def rates(table: pd.DataFrame) -> str:
    return markdown(table.map("{:g}".format))


def trainings(table: pd.DataFrame) -> str:
    """What the fusion models get right at their ends."""
    return markdown(table.astype(object).where(table.notna(), "–"))


def negatives(table: pd.DataFrame) -> str:
    """Of the hardest negatives in each run's last epoch, %."""
    last = table[table["epoch"] == table["epoch"].max()].reindex(
        columns=["discriminator", "true", "match", "right", "missed"]
    )
    found = (last["true"] * (1 - last["missed"].fillna(100.0) / 100)).round(3)
    columns = {
        "of the same photograph": last["true"],
        "found": found,
        "not found": last["true"] - found,
        "called a match": last["match"].fillna(0.0),
        "of these of the same photograph": last["right"],
    }
    shown = {name: ["–" if x != x else f"{x:.1f}" for x in column] for name, column in columns.items()}
    return markdown(pd.DataFrame({"discriminator": last["discriminator"], **shown}))


def hidden(table: pd.DataFrame) -> str:
    """Of the hardest negatives, %; the AUC of match scores among them."""
    columns = [column for column in table if column not in ("discriminator", "pairs")]
    return markdown(pd.DataFrame({"discriminator": table["discriminator"], **table[columns].map("{:.1f}".format)}))


def recalls(table: pd.DataFrame) -> str:
    """Mean and spread over seeds, %."""
    columns = [column for column in table if column not in ("arm", "seed", "order")]
    groups = table.groupby(["arm", "order"], sort=False)[columns]
    mean, spread = groups.mean(), groups.std()
    shown = mean.map("{:.1f}".format) + " ± " + spread.map("{:.1f}".format)
    return markdown(shown.where(mean.notna(), "–").reset_index())


def intervals(table: pd.DataFrame) -> str:
    """Changes with their 95 % intervals, in points, of both directions."""
    rows = []
    for (arm, order, k), lines in table.groupby(["arm", "order", "k"], sort=False):
        for kind, title in CHANGES.items():
            if lines[f"{kind} value"].isna().any():
                continue
            row = {"arm": arm, "change": f"{title}{order}", "R@": str(k)}
            for way in WAYS:
                (line,) = lines[lines["way"] == way].to_dict("records")
                value, low, high = (line[f"{kind} {part}"] for part in ("value", "low", "high"))
                text = f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"
                row[way] = f"**{text}**" if low > 0 or high < 0 else text
            rows.append(row)
    return markdown(pd.DataFrame(rows).sort_values(["change", "arm", "R@"], key=lambda x: x.str.zfill(2)))


TABLES = {
    "rates": rates,
    "negatives": negatives,
    "hidden": hidden,
    "recalls": recalls,
    "intervals": intervals,
    "trainings": trainings,
}
