"""Tables: marginals of a known copula are read back, and one line tells what is wrong in a file."""

import csv

import numpy as np
import pytest
from scipy import stats

from score_sde.config import build
from score_sde.data.copula import CHANCES, CORRELATION, MARGINALS
from score_sde.data.encoded import as_json, features_of
from score_sde.errors import DataError


def test_the_copula_has_its_marginals_and_correlations():
    """Kolmogorov-Smirnov at n = 5000 is below 1.95/sqrt n but for one in a thousand; a rank
    correlation is within four times 1/sqrt n of 6/pi asin(r/2)."""
    rows = build("data", "copula").train.parts["row"]
    n = len(rows)
    for i, law in enumerate(MARGINALS.values()):
        assert stats.kstest(rows[:, i], law.cdf).statistic < 1.95 / np.sqrt(n)
    for k, chance in enumerate(CHANCES):
        error = np.sqrt(chance * (1 - chance) / n)
        assert abs(np.mean(rows[:, 3] == k) - chance) < 4 * error
    for i, j in ((0, 1), (0, 2), (1, 2)):
        truth = 6 / np.pi * np.arcsin(CORRELATION[i, j] / 2)
        assert abs(stats.spearmanr(rows[:, i], rows[:, j]).statistic - truth) < 4 / np.sqrt(n)
    # a category goes with wait as with the normal number behind it (r = .5)
    waits = [rows[rows[:, 3] == k, 0].mean() for k in range(3)]
    assert waits == sorted(waits)
    again, other = (build("data", f"copula(seed={s})").train.parts["row"] for s in (0, 1))
    np.testing.assert_array_equal(again, rows)
    assert not np.any(other[:, 0] == rows[:, 0])


def write(path, rows, names=("age", "city", "code")):
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([names, *rows])


ROWS = [(30 + i % 7 + 0.5, "Oslo" if i % 3 else "Kyōto, north", i % 2) for i in range(20)]


def test_a_csv_file_is_numbers_and_categories(tmp_path):
    write(tmp_path / "t.csv", ROWS)
    path = str(tmp_path / "t.csv")
    data = build("data", {"name": "csv_table", "path": path, "categories": ("code",)})
    age, city, code = data.features["row"].columns
    assert (age.name, age.categories) == ("age", ())
    assert (city.name, city.categories) == ("city", ("Kyōto, north", "Oslo"))
    assert code.categories == ("0", "1")
    whole = np.concatenate([data.test.parts["row"], data.train.parts["row"]])
    order = [0, 10, *(i for i in range(20) if i % 10)]
    truth = [(ROWS[i][0], float(ROWS[i][1] == "Oslo"), ROWS[i][2]) for i in order]
    np.testing.assert_array_equal(whole, truth)
    # what a column is, is learnt from the training rows
    assert age.mean == pytest.approx(np.mean(data.train.parts["row"][:, 0]))
    assert min(age.values) >= data.train.parts["row"][:, 0].min()

    options = {"columns": ("code", "age"), "label_column": "city"}
    labelled = build("data", {"name": "csv_table", "path": path, **options})
    assert [c.name for c in labelled.features["row"].columns] == ["code", "age"]
    assert labelled.features["label"].values == 2
    np.testing.assert_array_equal(labelled.train.parts["label"], data.train.parts["row"][:, 1])
    assert features_of(as_json(data.features)) == data.features


def test_half_of_the_training_rows_are_below_the_middle():
    """The scores are normal quantiles of the share of rows below, ties in the middle of theirs."""
    column = build("data", "copula").features["row"].columns[0]
    rows = build("data", "copula").train.parts["row"][:, 0]
    for value, score in zip(column.values[::20], column.scores[::20], strict=True):
        assert np.mean(rows <= value) == pytest.approx(stats.norm.cdf(score), abs=2 / len(rows))


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (None, {}, "t.csv does not exist"),
        (b"", {}, "is empty, or is no text in UTF-8"),
        (b"\xff\xfe\x00", {}, "is empty, or is no text in UTF-8"),
        (b"a,b\n1,2\n3\n", {}, "row 2 has 1 fields, and there are 2"),
        (b"a,a\n1,2\n", {}, "columns without a name, or two of one name"),
        (b"a\n1\n2\n", {}, "has 2 rows, and a table needs at least 4"),
        (b"a,b\n1,2\n2,\n3,4\n4,5\n", {}, "row 2 has no 'b': fill it, or leave it out"),
        (b"a\n1\ninf\n2\n3\n", {}, "column 'a' has numbers that are not finite"),
        (b"a\n1\n1\n1\n1\n", {}, "column 'a' has the number 1.0 in every row: leave it out"),
        (b"a\nx\nx\nx\nx\n", {}, "column 'a' has 1 categories, and 2 to 100 can be learnt"),
        (b"a\n1\n2\n3\n4\n", {"columns": ("b",)}, "has no column 'b', only a"),
        (b"a\n1\n2\n3\n4\n", {"delimiter": ";;"}, "is no table"),
        (b"a\n" + b"x" * 200_000, {}, "is no table: field larger than field limit"),
    ],
)
def test_wrong_files_are_one_line(tmp_path, content, options, message):
    if content is not None:
        (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        build("data", {"name": "csv_table", "path": str(tmp_path / "t.csv"), **options})
    assert "\n" not in str(error.value)
