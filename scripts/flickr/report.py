"""Tables of the study of the fusion model, from its CSVs."""

from pathlib import Path

import pandas as pd
from digits.study import markdown

WAYS = ("image → text", "text → image")
CHANGES = {"against its ITC": "re-ranked by ", "against plain": "against plain, "}
RUNS = {
    "none": "none",
    "con-d-start": "GRIT-VLP, not fine-tuned",
    "con-d-drawn": "GRIT-VLP, fine-tuned, drawn by similarity",
    "con-d-random": "GRIT-VLP, fine-tuned, evenly drawn",
    "joint-100": "the common start",
    "rate-0.0003": "plain at 0.0003",
    "rate-0.001": "plain",
}


def report(results: Path) -> str:
    """The tables of docs/fusion-study.md; also writes them to tables.md."""
    files = {name: results / f"{FILES.get(name, name)}.csv" for name in TABLES}
    found = {name: pd.read_csv(path) for name, path in files.items() if path.exists()}
    text = "\n".join(f"## {name}\n\n{markdown(TABLES[name](table))}" for name, table in found.items())
    (results / "tables.md").write_text(text)
    return text


def rates(table: pd.DataFrame) -> pd.DataFrame:
    """As they are."""
    return table.map("{:g}".format)


def trainings(table: pd.DataFrame) -> pd.DataFrame:
    """What the fusion models get right at their ends, %."""
    return table.astype(object).where(table.notna(), "–").astype(str)


def costs(table: pd.DataFrame) -> pd.DataFrame:
    """Seconds and memory of a step, and their ratios."""
    figures = {
        "seconds": table["seconds"].map("{:.1f}".format),
        "over ITC": table["seconds_over_itc"].map("{:.2f}".format),
        "peak, MiB": table["peak_mib"].map("{:,.0f}".format),
        "over ITC's": table["peak_over_itc"].map("{:.2f}".format),
    }
    return pd.DataFrame({"step": table["step"], **figures})


def negatives(table: pd.DataFrame) -> pd.DataFrame:
    """Of the hardest negatives in each run's last epoch, %."""
    names = ["discriminator", "true", "match", "right", "missed"]
    last = table[table["epoch"] == table["epoch"].max()].reindex(columns=names)
    found = (last["true"] * (1 - last["missed"].fillna(100.0) / 100)).round(3)
    columns = {
        "of the same photograph": last["true"],
        "found": found,
        "called a match": last["match"].fillna(0.0),
        "of these of the same photograph": last["right"],
    }
    shown = {name: ["–" if x != x else f"{x:.2f}" for x in column] for name, column in columns.items()}
    return pd.DataFrame({"discriminator": last["discriminator"].map(RUNS), **shown})


def hidden(table: pd.DataFrame) -> pd.DataFrame:
    """Of the hardest negatives, %; the AUC of match scores among them."""
    left = table["false"] - table["false and found"] - table["false and in doubt"]
    shown = table.drop(columns=["discriminator", "pairs"])
    shown.insert(3, "false and still negatives", left)
    return pd.DataFrame({"discriminator": table["discriminator"].map(RUNS), **shown.map("{:.1f}".format)})


def recalls(table: pd.DataFrame) -> pd.DataFrame:
    """Mean and spread over seeds, %."""
    return _over_seeds(table, "R@")


def matching(table: pd.DataFrame) -> pd.DataFrame:
    """The most that re-ranking can reach, and the AUC of the match logits among the candidates, %."""
    found = _over_seeds(table[table["order"] == "ITM"], "ceiling|AUC")
    return found.drop(columns="order")


def _over_seeds(table: pd.DataFrame, wanted: str) -> pd.DataFrame:
    columns = table.columns[table.columns.str.contains(wanted)].tolist()
    groups = table.groupby(["arm", "order"], sort=False)[columns]
    mean, spread = groups.mean(), groups.std()
    shown = mean.map("{:.1f}".format) + spread.map(lambda x: "" if x != x else f" ± {x:.1f}")
    return shown.where(mean.notna(), "–").reset_index()


def intervals(table: pd.DataFrame) -> pd.DataFrame:
    """Changes with their 95 % intervals, in points; bold where zero is outside."""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for kind, title in CHANGES.items():
        for line in table[table[f"{kind} value"].notna()].to_dict("records"):
            value, low, high = (line[f"{kind} {part}"] for part in ("value", "low", "high"))
            text = f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"
            row = rows.setdefault((line["arm"], f"{title}{line['order']}"), {})
            row[f"{line['way']} R@{line['k']}"] = f"**{text}**" if low > 0 or high < 0 else text
    return pd.DataFrame([{"arm": arm, "change": change, **row} for (arm, change), row in rows.items()])


FILES = {"matching": "recalls"}  # where the name is another one
TABLES = {
    "rates": rates,
    "recalls": recalls,
    "matching": matching,
    "intervals": intervals,
    "negatives": negatives,
    "hidden": hidden,
    "costs": costs,
    "trainings": trainings,
}
