"""Whether rows of a model have the law of the table: `python benchmarks/tables.py runs/tables`.

The figures of docs/guides/tables_and_molecules.md, of `--config configs/tables.py`, whose marginals
and rank correlations are known: of each numeric column the Kolmogorov-Smirnov distance to its law,
with that of the training rows; the chances of the categories; rank correlations; and how near
samples are to training rows. A few seconds.
"""

import argparse
from pathlib import Path

import jax
import numpy as np
from scipy import stats

import score_sde
from score_sde.data.copula import CHANCES, CORRELATION, KINDS, MARGINALS
from score_sde.evaluation.metrics.records import nearest_records


def main():
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--number", type=int, default=4000, help="of samples")
    arguments = parser.parse_args()
    model = score_sde.load(arguments.workdir)
    rows = model.sample(jax.random.key(0), arguments.number)
    train, test = (source.parts["row"] for source in (model.data.train, model.data.test))
    for name, table in (("samples", rows), ("training rows", train)):
        print(name)
        for i, (column, law) in enumerate(MARGINALS.items()):
            print(f"  {column}: distance {stats.kstest(table[:, i], law.cdf).statistic:.3f}")
        shares = [float(np.mean(table[:, 3] == k)) for k in range(3)]
        told = zip(KINDS, shares, CHANCES, strict=True)
        print("  " + ", ".join(f"{kind} {share:.3f} of {truth}" for kind, share, truth in told))
        for i, j in ((0, 1), (0, 2), (1, 2)):
            found = stats.spearmanr(table[:, i], table[:, j]).statistic
            truth = 6 / np.pi * np.arcsin(CORRELATION[i, j] / 2)
            print(f"  rank correlation of {i} and {j}: {found:.3f}, truth {truth:.3f}")
    x = [np.asarray(model.codec.middle(table)) for table in (rows, train, test)]
    print(nearest_records(*x))


if __name__ == "__main__":
    main()
