"""Mutation testing, as `make mutants` and docs/results/mutants.md say."""

import argparse
import os
import time
from collections import Counter

from tests.mutation import coverage_map, mutants, results, warm
from tests.mutation.judge import fail_without, judge

FOLDERS = ["solvers", "training", "processes", "evaluation"]
TESTS = [
    *(
        f"{part}{folder}/test_*.py"
        for folder in (*FOLDERS, "sampling", "models", "inverse")
        for part in ("", "long/")
    ),
    *("long/test_zero_terminal_snr.py", "modes/test_compare_solvers.py"),
    *("long/test_flow_identities.py", "long/test_distribution_matching.py"),
    "data/test_tones.py",
]
OUT = warm.ROOT / "runs" / "mutants"


def test_files(parts: str) -> list[str]:
    """Those of `TESTS` that have one of the texts in their path."""
    paths = [path for name in TESTS for path in sorted((warm.ROOT / "tests").glob(name))]
    names = [str(path.relative_to(warm.ROOT)) for path in paths]
    found = [name for part in parts.split(",") for name in names if part in name]
    return list(dict.fromkeys(found))


def judge_all(sample: list[mutants.Mutant], lines: coverage_map.Map, args) -> list[dict]:
    """A row for each mutant. Rows of an earlier run are kept, but for survivors with --again."""
    path = OUT / "results.jsonl"
    known = results.load(path)
    rows = []
    for i, mutant in enumerate(sample, 1):
        key = results.key(mutant)
        row = known.get(key)
        if row is None or (args.again and row["outcome"] != "killed"):
            row = judge(mutant, lines, args.budget, OUT) | {"key": key}
            if row["outcome"] != "untested":  # a larger map may have a test of it
                results.append(path, row)
            counts = dict(Counter(row["outcome"] for row in [*rows, row]))
            print(time.strftime("%H:%M:%S"), i, counts, f"{row['seconds']:.0f} s", flush=True)
            if row["outcome"] != "killed":
                place = f"{row['module']}:{row['line']}"
                print(f"  {row['outcome']} {place} {row['before']} => {row['after']}", flush=True)
        rows.append(row)
    return rows


def parse():
    """The flags."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("--n", type=int, default=300, help="how many mutants")
    parser.add_argument("--seed", type=int, default=0, help="of the draw of mutants")
    parser.add_argument(
        "--budget",
        type=float,
        default=40.0,
        help="processor seconds of the tests of a mutant; of those that run its line, the fastest",
    )
    parser.add_argument("--again", action="store_true", help="judges survivors of a run once more")
    parser.add_argument("--folders", default=",".join(FOLDERS), help="of score_sde")
    parser.add_argument("--tests", default="", help="measures test files with these texts only")
    parser.add_argument("--no-map", action="store_true", help="takes what was measured as it is")
    parser.add_argument("--map-only", action="store_true", help="measures the tests, and stops")
    return parser.parse_args()


def main() -> None:
    """Measures which tests run which lines, judges a sample of mutants, runs the tests that killed
    one without a mutant, and prints the tables. What is done already is kept in runs/mutants."""
    args = parse()
    os.chdir(warm.ROOT)
    warm.start()
    if not args.no_map:
        coverage_map.update(test_files(args.tests), FOLDERS, OUT / "map")
    if args.map_only:
        return
    lines = coverage_map.Map(OUT / "map")
    sample = mutants.sample(args.folders.split(","), args.n, args.seed)
    rows = results.explained(judge_all(sample, lines, args))
    killers = sorted({row["by"] for row in rows if row["by"] in lines.seconds})
    wrong = fail_without(killers, lines, OUT)
    if wrong:
        print(f"these tests fail without a mutant, and what they killed is unclear: {wrong}")
        rows = [row | {"outcome": "unclear"} if row["by"] in wrong else row for row in rows]
    print(results.table(rows))
    for outcome in ("equivalent", "survived", "untested", "unclear"):
        print(f"\n{outcome}:\n{results.listed(rows, outcome)}")


if __name__ == "__main__":
    main()
