"""How the page looks: colours and sizes, and the small pieces of HTML that it writes itself."""

from __future__ import annotations

import html
from typing import Any

# system fonts: a page that asks no other host for anything
FONT = ("ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")

CSS = """
.gradio-container { max-width: 1280px !important; width: 100% !important;
  margin: 0 auto !important; }
#head h1 { font-size: 1.5rem; font-weight: 650; margin: 0; letter-spacing: -0.01em; }
#head p { margin: 0.15rem 0 0; opacity: 0.72; font-size: 0.9rem; }
.pixels img { image-rendering: pixelated; }
.figure img { background: transparent; padding-top: 2.4rem; box-sizing: border-box; }
.line { display: flex; align-items: center; gap: 0.8rem; min-height: 2.1rem; font-size: 0.9rem; }
.line .bar { flex: 1; height: 6px; border-radius: 3px; overflow: hidden;
  background: var(--border-color-primary); }
.line .bar i { display: block; height: 100%; border-radius: 3px;
  background: var(--primary-500); transition: width 0.25s ease-out; }
.line .far { font-variant-numeric: tabular-nums; opacity: 0.8; white-space: nowrap; }
.told { font-size: 0.9rem; padding: 0.35rem 0; }
.wrong { font-size: 0.9rem; padding: 0.6rem 0.8rem; border-radius: 8px; border: 1px solid #e0736f;
  background: rgb(224 64 56 / 9%); overflow-wrap: anywhere; }
#command textarea, .command .cm-content { font-size: 0.78rem; }
.hint { opacity: 0.72; font-size: 0.85rem; }
@media (max-width: 640px) {
  .gradio-container { padding: 0.6rem !important; }
  .line { flex-wrap: wrap; row-gap: 0.2rem; } .line .bar { flex-basis: 100%; order: 2; }
}
"""


def theme(gradio: Any) -> Any:
    """A quiet theme with system fonts."""
    themes = gradio.themes
    quiet = themes.Soft(
        primary_hue=themes.colors.indigo,
        neutral_hue=themes.colors.slate,
        radius_size=themes.sizes.radius_md,
        font=FONT,
        font_mono=MONO,
    )
    return quiet.set(
        block_title_background_fill="none",
        block_title_padding="0",
        block_title_text_color="*body_text_color",
        block_title_text_weight="550",
        block_label_background_fill="*background_fill_secondary",
        block_label_text_color="*body_text_color_subdued",
        block_border_width="1px",
        block_shadow="none",
    )


def head(title: str, about: str) -> str:
    """The head of the page."""
    return f"<h1>{html.escape(title)}</h1><p>{html.escape(about)}</p>"


def line(text: str, share: float | None = None) -> str:
    """A line of progress; share: of what is done, in [0, 1]."""
    bar = ""
    if share is not None:
        bar = f'<span class="bar"><i style="width:{100 * min(max(share, 0), 1):.1f}%"></i></span>'
    return (
        f'<div class="line" role="status">{bar}<span class="far">{html.escape(text)}</span></div>'
    )


def told(text: str) -> str:
    """A line of a result."""
    return f'<div class="told" role="status">{html.escape(text)}</div>'


def wrong(text: str) -> str:
    """A mistake, as the command line words it."""
    return f'<div class="wrong" role="alert">error: {html.escape(text)}</div>'
