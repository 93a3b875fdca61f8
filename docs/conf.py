"""The site: `make docs` builds it in docs/_build."""

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "docs/_ext")]

import score_sde  # noqa: E402

project = "score_sde"
author = "the authors of score_sde"
copyright = "the authors of score_sde, Apache 2.0"
version = release = score_sde.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "docstrings", "generated", "breaks", "links"]
exclude_patterns = ["_build", "_ext"]
nb_execution_mode = "off"  # the tests run the notebooks; the site shows what is stored in them
myst_enable_extensions = ["deflist", "dollarmath"]  # the notebooks have formulas
myst_heading_anchors = 3
smartquotes = False  # strings are code
highlight_language = "none"  # of blocks that name no language: commands and equations

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True  # as they are written
# Aliases are shown by their names and not by what they stand for.
autodoc_type_aliases = {
    name: f"{module}.{name}"
    for module, names in (
        ("score_sde.types", "Key Keys Cond PyTree Grid Denoiser FlowMap Moments"),
        ("score_sde.training.objective", "Batch"),
        ("score_sde.training.state", "Gradient Unfit"),
    )
    for name in names.split()
}
autodoc_default_options = {"members": True, "undoc-members": True, "ignore-module-all": True}
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 90
# Annotations name types of JAX, numpy and jaxtyping. Their sites are not read: a build is offline.
nitpick_ignore_regex = [("py:.*", ".*")]

html_theme = "sphinx_book_theme"
html_title = "score_sde"
html_theme_options = {"show_toc_level": 2, "home_page_in_toc": True, "navbar_persistent": []}
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["looks.css"]
