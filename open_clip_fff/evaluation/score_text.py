"""A score in words, for a log and for a terminal."""

from collections.abc import Mapping

from open_clip_fff.evaluation.protocol import IMAGE_TO_TEXT, RECALL_AT, TEXT_TO_IMAGE


def in_words(metrics: Mapping[str, float], metric: str) -> str:
    """A set's own metric, or its recalls both ways, in per cent.

    Args:
        metrics: clip-benchmark's, by its names, from 0 to 1.
        metric: the set's own.
    """
    if not metric.startswith(IMAGE_TO_TEXT):
        return f"{metric} {100 * metrics[metric]:.2f} %"
    ways = []
    for way, name in (("image to text", IMAGE_TO_TEXT), ("text to image", TEXT_TO_IMAGE)):
        recalls = "/".join(f"{100 * metrics[f'{name}@{k}']:.1f}" for k in RECALL_AT)
        ways.append(f"{way} R@{'/'.join(map(str, RECALL_AT))} {recalls}")
    return ", ".join(ways)
