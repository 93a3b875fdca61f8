"""The page of mode evaluate says what was measured, whatever the data."""

import pytest

from score_sde.evaluation import report_page

COUNTS = {"split": "test", "num_examples": 200, "standard_error": 0.015}


@pytest.mark.parametrize(
    ("measure", "line"),
    [
        ("bits_per_dim", "Bits per dimension of 200 examples of the test split: 1.96 ± 0.015."),
        ("nats", "Log-density, nats, of 200 examples of the test split: 1.96 ± 0.015."),
    ],
)
def test_a_likelihood_is_told_in_its_measure(measure, line):
    result = {"step": 3, "likelihood": {measure: 1.96, **COUNTS}, "seconds": 1.0}
    assert report_page.headline(result) == {"step": 3, measure: 1.96, "seconds": 1.0}
    assert line in report_page.markdown("run", result).splitlines()


def test_the_page_says_what_kind_of_number_a_likelihood_is():
    found = {"bits_per_dim": 1.96, "kind": "lower bound", **COUNTS}
    page = report_page.markdown("run", {"step": 3, "likelihood": found, "seconds": 1.0})
    assert "test split: 1.96 ± 0.015 (lower bound of the log-likelihood)." in page
