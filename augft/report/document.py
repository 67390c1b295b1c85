"""A page as one file: a template, and the frame that all pages share. Nothing is loaded from elsewhere."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files

import jinja2
from markupsafe import Markup

from augft import __version__
from augft.report import text


def document(template: str, **values: object) -> str:
    """A page as text.

    Args:
        template: one that extends base.html.j2, by its name in templates/.
        values: what it shows.
    """
    script = files("augft.report").joinpath("templates/report.js").read_text(encoding="utf-8")
    return (
        _environment()
        .get_template(template)
        .render(
            **values,
            script=Markup(script),
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            version=__version__,
        )
    )


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("augft.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    forms = (text.percent, text.percent_range, text.probability, text.count, text.rate, text.duration, text.moment)
    environment.filters |= {form.__name__: form for form in forms}
    return environment
