"""What may happen to a batch between the loader and the towers; each hook is one file, which registers itself."""

from open_clip_fff.hooks import connection as connection
from open_clip_fff.hooks import ema_features as ema_features
from open_clip_fff.hooks import frozen_features as frozen_features
from open_clip_fff.hooks import grit as grit
from open_clip_fff.hooks import sentence_features as sentence_features
from open_clip_fff.hooks import stored_features as stored_features
