"""What became of one shard: how much of what, and what was left out and why."""

import json
from collections import Counter
from dataclasses import dataclass, field

from open_clip_fff.data.shards import SkippedSample


@dataclass
class ShardRecord:
    """Kept beside what was written, as json.

    Attributes:
        source: what the shard was made of, such as its url.
        counts: numbers by name, in the order in which they are shown; they add up over shards.
        left_out: samples that were passed over.
    """

    source: str
    counts: Counter[str] = field(default_factory=Counter)
    left_out: list[SkippedSample] = field(default_factory=list)

    def leave_out(self, key: str, why: str) -> None:
        """Notes a sample that is passed over."""
        self.left_out.append(SkippedSample(key, why))

    def text(self) -> str:
        """As json, with nothing in it that differs from one run to the next."""
        content = {"source": self.source, "counts": dict(self.counts), "left_out": [x._asdict() for x in self.left_out]}
        return json.dumps(content, ensure_ascii=False, indent=1) + "\n"

    @classmethod
    def read(cls, text: str) -> "ShardRecord":
        """Opens what `text` wrote. Raises ValueError, KeyError or TypeError for anything else."""
        content = json.loads(text)
        left_out = [SkippedSample(**entry) for entry in content["left_out"]]
        return cls(content["source"], Counter(content["counts"]), left_out)
