"""The page of a gpu.json, in Markdown."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

NOTE = "**Not of a GPU: the command was tried on a CPU, and no figure below means anything.**\n\n"
ERRORS = ("error_value", "error_gradient")


def page(found: dict[str, Any]) -> str:
    """All that was found."""
    memory = f", {found['memory_gib']:.0f} GiB" if found["memory_gib"] else ""
    driver = f", driver {found['driver']}" if found["driver"] else ""
    title = f"# On a GPU: {found['device']}\n\n" if found["memory_gib"] else f"# On a CPU\n\n{NOTE}"
    about = (
        f"`bash scripts/gpu_check.sh`, {found['date']}, commit {found['commit'] or 'unknown'}: {found['device']}"
        f"{memory}{driver}, PyTorch {found['torch']}; {found['seconds']:.0f} s in all.\n\n"
    )
    parts = table(
        ("part", "result", "s"),
        ((name, part["fault"] or "passed", f"{part['seconds']:.0f}") for name, part in found["parts"].items()),
    )
    sections = [
        f"\n## {heading}\n\n{show(figures)}"
        for name, (heading, show) in SECTIONS.items()
        if (figures := found["parts"].get(name, {}).get("figures"))
    ]
    return title + about + parts + "".join(sections)


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Its lines; all columns but the first are numbers."""
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def triton(figures: dict[str, int]) -> str:
    """How the tests of the kernel ended."""
    return ", ".join(f"{number} {what}" for what, number in figures.items()) + ".\n"


def losses(rows: list[dict[str, Any]]) -> str:
    """A table for each K and type of features, of time and memory, and what is furthest from float64."""
    text = (
        "Forward and backward, medians of interleaved rounds: milliseconds, and MiB beside the inputs and one set of\n"
        "gradients. The errors are relative to float64 on the same features, of the value and of gradients to 64\n"
        "images and their captions, the largest over all N. TF32 is on, as in OpenCLIP's training.\n"
    )
    sizes = sorted({row["images"] for row in rows})
    for k, features in sorted(
        dict.fromkeys((row["captions"], row["features"]) for row in rows), key=lambda pair: pair[0]
    ):
        these = [row for row in rows if (row["captions"], row["features"]) == (k, features)]
        names = list(dict.fromkeys(row["loss"] for row in these if row["loss"] != "all"))
        heads = [f"K = {k}, {features}", *(f"N = {n:,}" for n in sizes), "error: value", "gradient"]
        text += "\n" + table(heads, (loss_row(name, sizes, these) for name in names)) + beside_siglip_kernel(these)
    return text


def loss_row(name: str, sizes: list[int], rows: list[dict[str, Any]]) -> list[str]:
    """One loss at each size."""
    of = {row["images"]: row for row in rows if row["loss"] in (name, "all")}
    worst = [max((row[key] for row in of.values() if key in row), default=None) for key in ERRORS]
    cells = [cell(of[n]) if n in of else "" for n in sizes]
    return [name, *cells, *("–" if error is None else f"{error:.0e}" for error in worst)]


def cell(row: dict[str, Any]) -> str:
    """Its time and memory, or why there is none."""
    return row.get("note") or f"{row['ms']:,.1f} ms, {row['peak_mib']:,.0f} MiB"


def beside_siglip_kernel(rows: list[dict[str, Any]]) -> str:
    """How much longer the fastest of our sigmoid losses takes, where both were timed on the largest batch."""
    timed = [row for row in rows if "ms" in row and (row["loss"] == "siglip-kernel" or row["loss"].startswith("FFF"))]
    theirs = [row for row in timed if row["loss"] == "siglip-kernel"]
    if not theirs:
        return ""
    last = max(theirs, key=lambda row: row["images"])
    ours = min((row for row in timed if row["images"] == last["images"] and row != last), key=lambda row: row["ms"])
    ratio = ours["ms"] / last["ms"]
    return f"\nAt N = {last['images']:,}, {ours['loss']} takes {ratio:.2f} times as long as siglip-kernel.\n"


def steps(rows: list[dict[str, Any]]) -> str:
    """Images per second and peak memory."""
    cells = (
        (
            f"{row['model']}, {row['batch']:.0f}: {row['candidate']}",
            f"{row['images_per_second']:,.1f}",
            f"{row['rate_over_siglip']:.2f}",
            f"{row['peak_mib']:,.0f}",
            f"{row['peak_over_siglip']:.2f}",
        )
        for row in rows
    )
    heads = ("model, batch: candidate", "images/s", "over SigLIP", "peak, MiB", "over SigLIP")
    return f"`bench_step.py`, {rows[0]['precision']}, captions of {rows[0]['captions']}.\n\n" + table(heads, cells)


def step_parts(figures: dict[str, Any]) -> str:
    """Milliseconds, and what the device did in them."""
    cells = (
        (
            row["candidate"],
            f"{row['ms']:.1f}",
            f"{row['busy_ms']:.1f}" if "busy_ms" in row else "–",
            f"{row['kernels']:,}" if "kernels" in row else "–",
            f"{row['text_tokens']:,}",
        )
        for row in figures["rows"]
    )
    about = f"{figures['model']}, {figures['images']} images, K = {figures['captions']}, {figures['precision']}."
    return f"{about}\n\n" + table(("step", "ms", "of these busy", "kernels", "tokens of text"), cells)


def ranks(figures: dict[str, Any]) -> str:
    """How far ranks and one process are apart."""
    alone = " With one rank no features travel." if figures["ranks"] == 1 else ""
    cells = ((f"{run['loss']}, {run['dist_impl']}", f"{run['error']:.0e}") for run in figures["runs"])
    about = f"{figures['backend']}, {figures['ranks']} rank(s), {figures['images']} images, K = {figures['captions']}."
    return f"{about}{alone}\n\n" + table(("loss", "off one process by"), cells)


def amp(figures: dict[str, Any]) -> str:
    """What the trainer did in float16."""
    first, last = figures["losses"][0], figures["losses"][-1]
    return (
        f"{figures['steps']} steps taken, {figures['skipped']} skipped by the GradScaler, whose scale was "
        f"{figures['gradient_scale']:,.0f} at the end; the loss went from {first:.3f} to {last:.3f}.\n"
    )


def half_mining(figures: dict[str, Any]) -> str:
    """Pairs that differ."""
    cells = (
        (
            f"{row['clause']}, {row['features']}",
            f"{row['differ']:,}",
            f"{row['differ'] / row['pairs']:.1e}",
            f"{100 * row['differ'] / max(row['mined'], 1):.2f} %",
        )
        for row in figures["rows"]
    )
    about = f"{figures['images']} drawn images, K = {figures['captions']}, D = {figures['width']}, against float32."
    return f"{about}\n\n" + table(("clause, features", "pairs that differ", "of all", "of those mined"), cells)


SECTIONS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "triton": ("The Triton kernel's tests", triton),
    "losses": ("Losses", losses),
    "step": ("A whole step", steps),
    "step_parts": ("What a step consists of", step_parts),
    "ranks": ("Ranks", ranks),
    "amp": ("Float16 with a GradScaler", amp),
    "half_mining": ("Mining in half precision", half_mining),
}
