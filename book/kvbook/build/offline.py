"""Sphinx extension: leave out sphinx-thebe, which Jupyter Book always loads.

Thebe runs code cells on a server elsewhere. This book offers no such button, but the scripts
would stand on every page, name that server, and clash with each other in the browser.
"""

from __future__ import annotations

from typing import Any

from sphinx.application import Sphinx

UNWANTED = "sphinx_thebe"


def silence(app: Sphinx, config: object) -> None:
    """Take away all that the unwanted extension hooked into the build."""
    for name, listeners in app.events.listeners.items():
        app.events.listeners[name] = [
            listener
            for listener in listeners
            if not listener.handler.__module__.startswith(UNWANTED)
        ]


def forget(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: object) -> None:
    """Take its files off a page."""
    for kind in ("script_files", "css_files"):
        files = context.get(kind, [])
        context[kind] = [
            file for file in files if "thebe" not in str(getattr(file, "filename", ""))
        ]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("config-inited", silence)
    app.connect("html-page-context", forget)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
