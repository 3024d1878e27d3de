"""HTML pages from templates (`brainreg/templates`), whose texts are escaped. No page needs a network."""

import base64
import hashlib
from functools import cache
from typing import Any

import jinja2
from markupsafe import Markup

# What stands where nothing is known.
ABSENT = "\u2013"


@cache
def _templates() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("brainreg"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )


def static(name: str) -> str:
    """Return the content of a file among the templates, CSS or JavaScript."""
    loader = _templates().loader
    assert loader is not None
    return loader.get_source(_templates(), name)[0]


def render_page(
    template: str, title: str, *, style: str, script: str | None = None, library: str = "", **content: Any
) -> str:
    """Return a page that loads nothing, and that runs no script but its own.

    Args:
        template: name of its template, which extends `page.html.jinja`.
        title: a text.
        style: name of its style sheet, beside that of all pages.
        script: name of its JavaScript.
        library: JavaScript that runs before it, which may make functions of texts (as Vega does of expressions).
        content: what the template shows; texts are escaped.
    """
    policy, code = "default-src 'none'; style-src 'unsafe-inline'; img-src data:", ""
    if script is not None:
        code = f"{library}\n{static(script)}".replace("</script", "<\\/script")
        digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
        policy += f"; script-src 'sha256-{digest}'" + (" 'unsafe-eval'" if library else "")
    return (
        _templates()
        .get_template(template)
        .render(
            title=title,
            policy=Markup(policy),
            style=Markup(static("page.css") + static(style)),
            script=Markup(code),
            **content,
        )
    )
