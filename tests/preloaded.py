"""What the programs import, for tests/programs.py: once, before there is any."""

import gc

import clip_benchmark.metrics.zeroshot_classification
import clip_benchmark.metrics.zeroshot_retrieval
import jinja2
import matplotlib.pyplot
import open_clip
import open_clip_train.main
import pandas
import pyarrow.parquet
import scipy.sparse
import sklearn.linear_model
import sklearn.metrics
import tensorboard
import torch._dynamo
import torch.distributed.launcher.api
import transformers.models.blip.modeling_blip

import open_clip_fff.host.run
from tests import vocabulary

__all__ = ["clip_benchmark", "jinja2", "matplotlib", "open_clip", "open_clip_fff", "open_clip_train", "pandas"]
__all__ += ["pyarrow", "scipy", "sklearn", "tensorboard", "torch", "transformers"]

vocabulary.read_once()
open_clip.factory.SimpleTokenizer(context_length=16)  # of the tiny architectures

gc.collect()
gc.freeze()  # a fork's collections neither walk nor copy what was there before it
