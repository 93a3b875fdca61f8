"""What conditioners share that give a text or labels, and something beside it."""

from __future__ import annotations

from typing import Any

import numpy as np

from score_sde.conditioning.conditioner import Raw


class BesideText:
    """All that such a conditioner leaves to that of the text, its field `text`."""

    text: Any

    @property
    def field(self) -> str:
        """That of the text."""
        return self.text.field

    @property
    def digests(self) -> dict[str, str]:
        """Those of the text."""
        return self.text.digests

    @property
    def nothing(self) -> Raw:
        """That of the text: guidance leaves what is beside it."""
        return self.text.nothing

    def read(self, example: Raw) -> dict[str, Any]:
        """What the text reads."""
        return self.text.read(example)

    def told(self, raw: Raw) -> dict[str, np.ndarray]:
        """What the text tells."""
        return self.text.told(raw)

    def check(self, raw: Raw) -> None:
        """As the text."""
        self.text.check(raw)
