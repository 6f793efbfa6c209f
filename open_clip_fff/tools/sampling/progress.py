"""The progress bars of analyze, calibrate and gallery: none where stderr is no terminal."""

from functools import partial

from tqdm import tqdm

progress = partial(tqdm, disable=None, leave=False)
