"""Whether rows of a model have the law of the table: `python benchmarks/tables.py`.

The figures of docs/guides/tables_and_molecules.md, of the table `copula`, whose marginals and rank
correlations are known: of each numeric column the Kolmogorov-Smirnov distance to its law, the
chances of the categories, rank correlations, and how near rows are to training rows. Of training
rows, and of models of configs/tables.py by their workdirs:

    python main.py --mode train --config configs/tables.py --workdir runs/tables
    python benchmarks/tables.py --workdirs runs/tables

A few seconds.
"""

from pathlib import Path

import command
import jax
import numpy as np
from scipy import stats

import score_sde
from score_sde.config import build
from score_sde.data.copula import CHANCES, CORRELATION, KINDS, MARGINALS
from score_sde.evaluation.metrics.records import nearest_records


def main() -> None:
    """Prints the figures."""
    parser = command.parser(__doc__)
    parser.add_argument("--workdirs", nargs="*", type=Path, default=[], help="of trained models")
    parser.add_argument("--number", type=int, default=4000, help="of samples")
    options = command.parse(parser, number=50)

    data = build("data", "copula")
    codec = build("codecs", "columns", data.features)
    train, test = (source.parts["row"] for source in (data.train, data.test))
    tables = {"training rows": train[: options.number], "test rows": test[: options.number]}
    for workdir in options.workdirs:
        model = score_sde.load(workdir)
        tables[str(workdir)] = model.sample(jax.random.key(0), options.number)
    for name, table in tables.items():
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
        x = [np.asarray(codec.middle(rows)) for rows in (table, train, test)]
        print(f"  {nearest_records(*x)}")


if __name__ == "__main__":
    main()
