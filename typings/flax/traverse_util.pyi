"""What a checker cannot read in flax: the leaves of a flat tree may have any type."""

from collections.abc import Mapping
from typing import Any

def flatten_dict(xs: Any, *, sep: str | None = None) -> dict[Any, Any]: ...
def unflatten_dict(xs: Mapping[Any, Any], *, sep: str | None = None) -> dict[Any, Any]: ...
