"""HTML pages of one style: a folder's `page.html.jinja` extends `base.html.jinja` and contains its images."""

import base64
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

TEMPLATE = "page.html.jinja"


@dataclass(frozen=True)
class Head:
    """The top of a page."""

    title: str  # of the page, and its heading
    about: str  # a sentence
    warnings: list[str] = field(default_factory=list)  # what to know before reading
    plan: list[tuple[str, str]] = field(default_factory=list)  # what the flags mean, by topic
    command: str = ""  # as it was given


def render(folder: Path, head: Head, **context: object) -> str:
    """HTML of a folder's `page.html.jinja`, which may include templates of this folder; values are escaped."""
    environment = Environment(
        loader=FileSystemLoader([folder, Path(__file__).parent]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    return environment.get_template(TEMPLATE).render(head=head, **context)


def data_address(content: bytes, kind: str) -> str:
    """An image as a data URL; `kind` is its media type, such as `image/png`."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
