"""What the study trains and scores on: CIFAR-10's classes, and Flickr8k's captions of single photographs."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from open_clip_fff.evaluation.protocol import IMAGE_TO_TEXT, TEXT_TO_IMAGE

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Bench:
    """Images of one kind, the towers for them, and their scores."""

    model: Path  # the towers' configuration
    flags: tuple[str, ...]  # of training, beside those that all have
    sets: tuple[str, str]  # of DATA/sets, the one on which learning rates are chosen and the one that is reported
    columns: Mapping[str, tuple[str, ...]]  # of runs.csv, with the metrics whose mean they are, in an evaluation's line
    chosen_by: str  # the column by which rates are chosen
    measures: Mapping[str, str]  # the columns that tables and plots compare, with their titles
    axis: str  # what these are, under the plot
    folder: str  # of its CSVs, below the study's

    def scores(self, found: Mapping[str, float]) -> dict[str, float]:
        """The columns, in %, that an evaluation's line has the metrics of."""
        return {
            column: 100 * sum(found[name] for name in names) / len(names)
            for column, names in self.columns.items()
            if all(name in found for name in names)
        }


def _both_ways(of: str, k: int) -> tuple[str, ...]:
    return tuple(f"zeroshot/{of}/{way}@{k}" for way in (IMAGE_TO_TEXT, TEXT_TO_IMAGE))


CIFAR = Bench(
    model=HERE / "cifar-conv.json",
    flags=("--class-key", "cls"),
    sets=("validation", "test"),
    columns={
        "top-1": ("zeroshot/test/acc1",),
        "mean per class": ("zeroshot/test/mean_per_class_recall",),
        "validation top-1": ("zeroshot/validation/acc1",),
    },
    chosen_by="validation top-1",
    # test images are balanced, so that top-1 is the mean over classes, too
    measures={"top-1": "the set's prompts", "top-1 in words": "the captions' words"},
    axis="top-1, % of 10,000 test images",
    folder="",
)
FLICKR = Bench(
    model=HERE.parent / "flickr" / "flickr-conv.json",
    flags=(),
    sets=("flickr8k-validation", "flickr8k-test"),
    columns={
        **{f"R@{k}": _both_ways("flickr8k-test", k) for k in (1, 5, 10)},
        "validation R@5": _both_ways("flickr8k-validation", 5),
    },
    chosen_by="validation R@5",
    measures={"R@5": "R@5", "R@10": "R@10"},
    axis="recall, mean of both directions, %",
    folder="flickr8k",
)
BENCHES = (CIFAR, FLICKR)


def bench_of(condition: str) -> Bench:
    """What a condition of that name trains and scores on."""
    return FLICKR if condition.startswith(f"{FLICKR.folder}-") else CIFAR
