"""The FFF paper's evaluation: 11 zero-shot sets and 2 retrieval sets, by clip-benchmark's names."""

from collections.abc import Mapping
from dataclasses import dataclass

ZERO_SHOT, RETRIEVAL = "zeroshot_classification", "zeroshot_retrieval"  # clip-benchmark's tasks
RECALL_AT = (1, 5, 10)
IMAGE_TO_TEXT, TEXT_TO_IMAGE = "text_retrieval_recall", "image_retrieval_recall"  # named after what is retrieved
LINEAR_PROBE = "linear_probe"
RERANKING = "rerank_"  # and the number of candidates: retrieval re-ranked by a fusion model
ORDERS = ("itc_", "itm_", "itc_itm_")  # by features, by match logit, by the sum of both; before the recalls' names


@dataclass(frozen=True)
class EvalSet:
    """An evaluation set."""

    name: str  # clip-benchmark's
    title: str  # for tables and plots
    task: str = ZERO_SHOT  # `ZERO_SHOT` or `RETRIEVAL`
    # the field of clip-benchmark's JSON that the paper averages; for retrieval, the first of its recalls
    metric: str = "acc1"
    note: str = ""  # what readers of its metric must know; may be empty
    images: int | None = None  # images of a retrieval set in papers, with five captions each or a few more


_CALTECH = (
    "in torchvision's layout all images are scored, BACKGROUND_Google as a 102nd class among them; in VTAB's "
    "(wds_vtab-caltech101 on the hub) its test split"
)
ELEVEN = (
    EvalSet("cifar10", "CIFAR-10"),
    EvalSet("cifar100", "CIFAR-100"),
    EvalSet("food101", "Food-101"),
    EvalSet("pets", "Oxford Pets", metric="mean_per_class_recall"),
    EvalSet("flowers", "Flowers-102", metric="mean_per_class_recall"),
    EvalSet("sun397", "SUN397", note="all images: clip-benchmark has no split"),
    EvalSet("cars", "Stanford Cars"),
    EvalSet("dtd", "DTD"),
    EvalSet("caltech101", "Caltech-101", metric="mean_per_class_recall", note=_CALTECH),
    EvalSet("fgvc_aircraft", "FGVC Aircraft", metric="mean_per_class_recall", note="the 100 variants"),
    EvalSet("imagenet1k", "ImageNet"),
)
TWO = (
    EvalSet("flickr30k", "Flickr30k", RETRIEVAL, f"{IMAGE_TO_TEXT}@1", images=1_000),
    EvalSet("mscoco_captions", "MSCOCO", RETRIEVAL, f"{IMAGE_TO_TEXT}@1", images=5_000),
)
PROTOCOL = {each.name: each for each in (*ELEVEN, *TWO)}
RECALLS = (
    "Image → text counts the images with any own caption among the first k; text → image the captions whose image is"
)


def score_text(metrics: Mapping[str, float], metric: str) -> str:
    """A score as text: the set's own metric, or recalls in both directions, in per cent.

    `metrics` are clip-benchmark's, by its names, from 0 to 1; a re-ranking has a line for each of `ORDERS`.
    """
    if metric.startswith(IMAGE_TO_TEXT):
        return _recalls(metrics)
    if not metric.endswith(f"{IMAGE_TO_TEXT}@1"):
        return f"{metric} {100 * metrics[metric]:.2f} %"
    titles = zip(ORDERS, ("ITC", "ITM", "ITC+ITM"), strict=True)
    ceilings, aucs = ([metrics[f"{way}_{of}"] for way in (IMAGE_TO_TEXT, TEXT_TO_IMAGE)] for of in ("ceiling", "auc"))
    orders = [f"{title}: {_recalls(metrics, order)}" for order, title in titles]
    most = f"right ones are among the candidates for {100 * ceilings[0]:.1f} and {100 * ceilings[1]:.1f} %"
    return "\n    ".join(
        ["", *orders, f"{most}; ITM tells them from others with an AUC of {aucs[0]:.3f} and {aucs[1]:.3f}"]
    )


def _recalls(metrics: Mapping[str, float], order: str = "") -> str:
    ways = []
    for way, name in (("image to text", IMAGE_TO_TEXT), ("text to image", TEXT_TO_IMAGE)):
        recalls = "/".join(f"{100 * metrics[f'{order}{name}@{k}']:.1f}" for k in RECALL_AT)
        ways.append(f"{way} R@{'/'.join(map(str, RECALL_AT))} {recalls}")
    return ", ".join(ways)
