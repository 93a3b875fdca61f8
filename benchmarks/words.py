"""How well a model of words spells: `python benchmarks/words.py --workdir runs/words`.

After `configs/words.py` is trained. It prints, for the test words and the samples in the workdir,

- bits of a character, the end of a word counting as one: the bound of the model, and the
  cross-entropy of a model of letters given the 4 before them (interpolated Kneser-Ney, Chen &
  Goodman 1999), which has seen the same training words;
- the share of samples that are words of the data, and of those the share that are test words which
  training never had.
"""

from __future__ import annotations

import collections
import json
from pathlib import Path

import command
import numpy as np

from score_sde.config import build
from score_sde.data.words import spelled
from score_sde.experiment import workdirs
from score_sde.modes.likelihood import likelihood
from score_sde.modes.sample import sample

START, END = "^", "$"
DISCOUNT = 0.75


class Letters:
    """An n-gram model of the letters of words, interpolated Kneser-Ney with one discount."""

    def __init__(self, words: list[str], order: int = 5):
        self.order = order
        self.counts = [collections.defaultdict(collections.Counter) for _ in range(order)]
        contexts: list[set] = [set() for _ in range(order)]
        for word in words:
            letters = START * (order - 1) + word + END
            for i in range(order - 1, len(letters)):
                self.counts[order - 1][letters[i - order + 1 : i]][letters[i]] += 1
        # the lower orders count in how many contexts a letter comes
        for k in range(order - 1, 0, -1):
            for before, found in self.counts[k].items():
                for letter in found:
                    contexts[k - 1].add((before, letter))
            for before, letter in contexts[k - 1]:
                self.counts[k - 1][before[1:]][letter] += 1

    def probability(self, before: str, letter: str, k: int | None = None) -> float:
        """Of a letter after the `order - 1` before it."""
        k = self.order - 1 if k is None else k
        if k < 0:
            return 1 / 27  # 26 letters and the end
        found = self.counts[k].get(before[len(before) - k :] if k else "")
        if not found:
            return self.probability(before, letter, k - 1)
        total = sum(found.values())
        own = max(found[letter] - DISCOUNT, 0) / total
        return own + DISCOUNT * len(found) / total * self.probability(before, letter, k - 1)

    def bits(self, words: list[str]) -> float:
        """Bits of a character."""
        total, n = 0.0, 0
        for word in words:
            letters = START * (self.order - 1) + word + END
            for i in range(self.order - 1, len(letters)):
                before = letters[i - self.order + 1 : i]
                total -= np.log2(self.probability(before, letters[i]))
                n += 1
        return total / n


def main() -> None:
    """The table of a workdir."""
    parser = command.parser(__doc__)
    parser.add_argument("--workdir", type=Path, default=Path("runs/words"))
    parser.add_argument("--samples", type=int, default=1000)
    options = command.parse(parser)
    if options.small:
        data = build("data", "words")
        train = spelled(data.train.parts["text"][:500])
        print(f"order 5: {Letters(train).bits(train[:100]):.3f} bits of a training character")
        return
    config = workdirs.stored_config(options.workdir)
    data = build("data", config.data.to_dict())
    train, test = (spelled(split.parts["text"]) for split in (data.train, data.test))
    characters = np.mean([len(word) + 1 for word in test])
    for order in (3, 5):
        print(f"order {order}: {Letters(train, order).bits(test):.3f} bits of a character")
    length = data.features["text"].shape[0]
    found = likelihood(config, options.workdir)
    scale = length / characters
    print(
        f"the model: {found['bits_per_dim'] * scale:.3f} +- "
        f"{found['standard_error'] * scale:.3f} bits of a character"
    )
    config.sampling.update(num_samples=options.samples, batch_size=500)
    for solver in ("unmask", "first_hitting", "confident"):
        config.sampling.solver = solver
        sample(config, options.workdir)
        with np.load(options.workdir / "samples.npz") as file:
            shown = file["samples"]
        words = [row.tobytes().replace(b"\0", b"").decode() for row in shown]
        known = [word in {*train, *test} for word in words]
        new = [word in {*test} - {*train} for word in words]
        print(
            f"{solver}: {np.mean(known):.1%} are words, {np.sum(new)} of {len(words)} are words "
            f"that training never had; for example {json.dumps(words[:12])}"
        )


if __name__ == "__main__":
    main()
