"""Sphinx extension: the last touches to the pages, so that each stands on its own on a disk.

Every rule says what it takes out or puts right, and why. They are plain substitutions; a page that
has been through them once is left alone by a second pass.
"""

from __future__ import annotations

import re
from pathlib import Path

from sphinx.application import Sphinx

RULES = [
    # Chinese terms of the glossary say that they are Chinese, for fonts and for screen readers.
    (
        r'<dt id="(term-[^"]*)">(?=[\u4e00-\u9fff])',
        r'<dt id="\1" lang="zh-Hans">',
    ),
    # Screen readers list the parts of a page by name.
    (
        r'<nav class="bd-toc-nav page-toc">',
        r'<nav class="bd-toc-nav page-toc" aria-label="On this page">',
    ),
    (
        r'<div class="(bd-sidebar-primary [^"]*)">',
        r'<div class="\1" role="complementary" aria-label="The book">',
    ),
    # A font preloaded "crossorigin" is refused on a disk; the style sheet loads it anyway.
    (r'<link rel="preload" as="font"[^>]*>\s*', ""),
    # Jupyter Book prepares every page for Thebe, a service on the network, not used here.
    (r"<script>const THEBE_JS_URL.*?</script>\s*", ""),
    (r'<script [^>]*src="[^"]*sphinx-thebe\.js[^"]*"></script>\s*', ""),
    (r'<link [^>]*href="[^"]*sphinx-thebe\.css[^"]*"[^>]*>\s*', ""),
    (r'<script type="text/x-thebe-config">.*?</script>\s*', ""),
    (r"<script>kernelName = .*?</script>\s*", ""),
    # A list of references is a list for screen readers only if its entries are entries of a list.
    (
        r'(<div class="citation"[^>]*) role="doc-biblioentry"',
        r'\1 role="listitem"',
    ),
]


def finish(page: str) -> str:
    """One page, as HTML, after all rules."""
    for pattern, replacement in RULES:
        page = re.sub(pattern, replacement, page, flags=re.DOTALL)
    return page


def finish_all(app: Sphinx, failure: Exception | None) -> None:
    """Go over the pages that were written."""
    if failure or app.builder.name != "html":
        return
    for path in Path(app.outdir).rglob("*.html"):
        before = path.read_text(encoding="utf-8")
        after = finish(before)
        if after != before:
            path.write_text(after, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Run after the pages are written."""
    app.connect("build-finished", finish_all)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
