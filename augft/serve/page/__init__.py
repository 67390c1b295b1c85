"""The page that people see: one file, which loads nothing but answers."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files

import jinja2
from markupsafe import Markup

from augft import __version__
from augft.serve.classifier import Recipe


def make_page(recipe: Recipe, *, needs_token: bool) -> tuple[str, str]:
    """The page, and the content security policy to send with it.

    Args:
        recipe: what is served.
        needs_token: whether the page shall ask for a token.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("augft.serve.page", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style, script = (files(__name__).joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    page = environment.get_template("page.html.j2").render(
        recipe=recipe,
        saved=recipe.saved,
        num_classes=recipe.saved.meta.num_classes,
        needs_token=needs_token,
        style=Markup(style),
        script=Markup(script),
        version=__version__,
    )
    rules = {
        "default-src": "'none'",
        "script-src": _hash(script),
        "style-src": _hash(style),
        "img-src": "blob:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return page, "; ".join(f"{name} {value}" for name, value in rules.items())


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
