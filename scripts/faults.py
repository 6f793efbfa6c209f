"""Causes faults of machines and untrusted data on purpose, and reports what happened.

    python scripts/faults.py                        # all rows: some minutes on two cores
    python scripts/faults.py --only 'NaN|SIGSTOP'   # rows whose topic or name matches
    python scripts/faults.py --list

Each row trains a tiny model with `python -m open_clip_fff.train` and a fault of its data, checkpoints, disk or
processes; no command may take longer than two minutes. The table has what the programs printed, and what was lost. The
exit code is 1 if a row did not end as promised.
"""

import argparse
import re
import sys
import tempfile
import textwrap
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import pandas as pd
from faulty import code, numbers, reports, resume, waiting
from faulty.lab import Lab
from faulty.rows import FAULTS, BrokenPromise, Fault

AT_ONCE = 2
ORDER = [module.__name__ for module in (code, numbers, waiting, resume, reports)]
WIDTH = 118


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the rows and prints the table; returns 0, 1 if a row did not end as promised, or 2 for wrong flags."""
    arguments = parse(argv)
    all_rows = sorted(FAULTS, key=lambda row: ORDER.index(row.check.__module__))
    rows = [row for row in all_rows if re.search(arguments.only, f"{row.topic}: {row.name}", re.I)]
    if not rows:
        print(f"faults.py: error: --only {arguments.only}: no row matches; --list shows all", file=sys.stderr)
        return 2
    if arguments.list:
        print(*(f"{row.topic}: {row.name}" for row in rows), sep="\n")
        return 0
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        table = pd.DataFrame(run_all(rows, Path(folder)))
    show(table)
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        table.to_csv(arguments.out / "faults.csv", index=False)
        (arguments.out / "faults.md").write_text(markdown(table))
    return 0 if table["as promised"].all() else 1


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="faults.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", metavar="REGEX", help="rows whose topic or name matches (default: all)")
    parser.add_argument("--list", action="store_true", help="list the rows")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="for faults.csv and faults.md (default: nothing is written)"
    )
    return parser.parse_args(argv)


def run_all(rows: Sequence[Fault], folder: Path) -> list[dict[str, object]]:
    """Runs the rows, two at a time, with a line for each."""
    began, results = time.monotonic(), {}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        tasks = {pool.submit(run_row, row, folder / str(number)): row for number, row in enumerate(rows)}
        for task in as_completed(tasks):
            results[tasks[task].name] = result = task.result()
            passed = time.monotonic() - began
            left = passed / len(results) * (len(rows) - len(results))
            word = "ok   " if result["as promised"] else "WRONG"
            print(f"[{len(results)}/{len(rows)}, {left:.0f} s left] {word} {tasks[task].name}", flush=True)
    return [results[row.name] for row in rows]


def run_row(row: Fault, folder: Path) -> dict[str, object]:
    """Runs a row; returns it for the table."""
    began, lab = time.monotonic(), Lab(folder)
    try:
        outcome = row.check(lab)
        happened, lost, good = outcome.happened, outcome.lost, True
    except BrokenPromise as error:
        happened, lost, good = str(error), "?", False
    except Exception as error:  # the other rows continue
        happened, lost, good = f"{type(error).__name__}: {error}", "?", False
    happened = " ".join(happened.replace(f"{folder}/", "").split())
    seconds = round(time.monotonic() - began)
    return {
        "topic": row.topic, "fault": row.name, "what happened": happened, "lost": lost, "seconds": seconds,
        "as promised": good,
    }  # fmt: skip


def show(table: pd.DataFrame) -> None:
    """The table for a terminal, topic by topic."""
    for topic, rows in table.groupby("topic", sort=False):
        print(f"\n{str(topic).upper()}")
        for row in rows.to_dict("records"):
            mark = "" if row["as promised"] else "WRONG: "
            print(f"\n  {row['fault']}")
            for name, value in (("happened", mark + row["what happened"]), ("lost", row["lost"])):
                lines = textwrap.wrap(value, WIDTH - 16, break_long_words=False)
                print(*(f"    {name if not n else '':<9} {line}" for n, line in enumerate(lines)), sep="\n")
    good = int(table["as promised"].sum())
    print(f"\n{good} of {len(table)} as promised")


def markdown(table: pd.DataFrame) -> str:
    """The table for a page, topic by topic."""
    lines = []
    for topic, rows in table.groupby("topic", sort=False):
        lines += [f"\n**{topic}**\n", "| fault | what happened | lost |", "|---|---|---|"]
        for row in rows.to_dict("records"):
            cells = (row["fault"], ("" if row["as promised"] else "WRONG: ") + row["what happened"], row["lost"])
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines).strip() + "\n"


if __name__ == "__main__":
    sys.exit(main())
