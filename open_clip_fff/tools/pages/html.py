"""Pages of one look: `page.html.jinja` extends `base.html.jinja`, and its images and plots are in it."""

import base64
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

TEMPLATE = "page.html.jinja"


@dataclass(frozen=True)
class Head:
    """What stands at the top of a page.

    Attributes:
        title: of the page, and its heading.
        about: what it is about, in a sentence.
        notices: what a reader should know before looking.
        plan: what the flags mean, a topic and its words each.
        command: as it was typed.
    """

    title: str
    about: str
    notices: list[str] = field(default_factory=list)
    plan: list[tuple[str, str]] = field(default_factory=list)
    command: str = ""


def render(folder: Path, head: Head, **words: object) -> str:
    """HTML of a folder's `page.html.jinja`; what stands in it is escaped.

    Args:
        folder: with the template; it may include what is there and what is here.
        head: what the base shows.
        words: what the template speaks of.
    """
    environment = Environment(
        loader=FileSystemLoader([folder, Path(__file__).parent]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    return environment.get_template(TEMPLATE).render(head=head, **words)


def data_address(content: bytes, kind: str) -> str:
    """An image as the address that a page holds it by; `kind` is its media type, as `image/png`."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
