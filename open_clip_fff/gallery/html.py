"""Templates of pages, which share one plain style: `{% include "plain.css.jinja" %}`."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined


def render(template: Path, **words: object) -> str:
    """HTML of a template; what stands in it is escaped.

    Args:
        template: the file; it may include those of its folder and of this one.
        words: what it speaks of.
    """
    environment = Environment(
        loader=FileSystemLoader([template.parent, Path(__file__).parent]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    return environment.get_template(template.name).render(**words)
