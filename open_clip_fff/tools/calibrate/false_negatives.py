"""How many negatives of a batch are false, by the classes of a sample."""

import numpy as np
import pandas as pd

BATCHES = 2 ** np.arange(4, 17)  # N


def false_negatives(labels: np.ndarray, batches: np.ndarray = BATCHES) -> pd.DataFrame:
    """How many negatives of a batch are false, where images of one class match each other's captions.

    Args:
        labels: classes int64 [n] of a sample, none negative.
        batches: global batch sizes N.

    Returns:
        One row per N: `batch`, `per_image`, images of its class that an image meets on average, and `share`, images
        that meet one at all. Batches are drawn from data with the sample's shares of classes.
    """
    counts = np.bincount(np.unique(labels, return_inverse=True)[1])
    shares = counts / counts.sum()
    rows = [
        (batch, (batch - 1) * float((shares**2).sum()), float((shares * (1 - (1 - shares) ** (batch - 1))).sum()))
        for batch in batches.tolist()
    ]
    return pd.DataFrame(rows, columns=["batch", "per_image", "share"])
