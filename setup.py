"""open_clip_fff: a plug-in for OpenCLIP's training. Tool settings are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent

TEMPLATES = ("evaluation.compare", "hub", "tools.analyze", "tools.gallery", "tools.pages")

setup(
    name="open_clip_fff",
    version=re.search(r'__version__ = "(.+)"', (ROOT / "open_clip_fff" / "__init__.py").read_text("utf-8")).group(1),
    description="OpenCLIP with many captions per image, mined positives and multi-positive losses (FFF, MAFA, COSMO)",
    long_description=(ROOT / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    packages=find_packages(include=["open_clip_fff", "open_clip_fff.*"]),
    package_data={"open_clip_fff": ["py.typed"], **{f"open_clip_fff.{folder}": ["*.jinja"] for folder in TEMPLATES}},
    entry_points={"console_scripts": ["open-clip-fff = open_clip_fff.cli:main"]},
    python_requires=">=3.11",
    install_requires=[
        "open_clip_torch==3.3.*",  # the seams of open_clip_fff/host are those of 3.3
        "torch>=2.6",
        "torchvision",
        "webdataset>=0.2.86",  # OpenCLIP's training extra pins it; the tests of tars pass with it, 0.2.111 and 1.0.2
        "braceexpand",
        "timm>=1.0.21",  # before it, ConvNeXt and SigLIP towers cannot be built on the meta device, as the checks do
        "transformers[sentencepiece]>=4.56",  # `dtype`
        "clip-benchmark>=1.6.2",
        # What open_clip_train and clip-benchmark import and do not ask for themselves.
        "pillow>=10.3",  # before it, 16-bit grey in a PNG has the mode of 32-bit integers
        "pandas>=2.2",  # before it, `pack` cannot name the rows of a CSV that have too many fields
        "fsspec",
        "requests",
        "safetensors",
        # Caption sidecars are parquet.
        "pyarrow>=19",  # `concat_batches`
        "tensorboard",
        # The model card and the pages of eval/compare.py, scripts/mined_gallery.py and scripts/analyze_captions.py are
        # templates; the hub's client uploads and fetches.
        "jinja2",
        "huggingface_hub>=0.25",  # its `errors`
        # The quickstart's data and the linear probe (clip-benchmark brings it); plots.
        "scikit-learn",
        "matplotlib",
        # The sparse sums of eval/compare.py's bootstrap; scikit-learn brings it.
        "scipy",
    ],
    extras_require={"test": ["pytest", "pytest-xdist", "hypothesis", "ruff", "mypy"]},
)
