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


ALL = {
    "step": 3,
    "seconds": 2.0,
    "loss": {
        "loss": 0.51234,
        "standard_error": 0.0123,
        "by_noise": {"log_snr": [-1.0, 2.5], "value": [0.5, 0.25], "standard_error": [None, 0.02]},
    },
    "metrics": {
        "reference": "test images",
        "features": "pixels",
        "rows": [
            {"sampler": "data", "num": 5, "frechet": 0.141},
            {"sampler": "ddim", "nfe": 11.0, "num": 5, "frechet": 0.25, "num_blank": 0}
            | {"frechet_standard_error": 0.0123},
        ],
    },
    "floor": {
        "whole": {"floor": 0.3, "floor_standard_error": 0.012}
        | {"above": 0.1, "above_standard_error": 0.0045}
    },
    "copies": {
        "num_samples": 64,
        "copied": {"value": 0.125, "standard_error": 0.04},
        "closer": {"value": 0.5, "standard_error": 0.06},
    },
    "adherence": {
        "guidance": 2.0,
        "prompts": 8,
        "kinds": ["seen", "held_out"],
        "seen": 0.75,
        "held_out": 0.5,
        "rows": [
            {"guidance": 2.0, "seen": 0.75, "seen_colour": 1.0, "held_out": 0.5}
            | {"held_out_colour": 0.875}
        ],
    },
    "clip_score": {"num_samples": 4, "num_prompts": 2, "clip": "small", "clip_score": 31.5}
    | {"standard_error": 0.25},
    "usefulness": {"num_test": 9, "num_train": 90, "seeds": 3}
    | {
        name: {"value": value, "standard_error": 0.01}
        for name, value in (("real", 0.9), ("synthetic", 0.8), ("both", 0.95))
    },
    "reconstruction": {"num_images": 7, "psnr": 30.25, "standard_error": 0.5}
    | {"features": "pixels", "frechet": 0.0625},
    "field": {"score_error": {"log_snr": [0.0], "value": [0.125], "standard_error": [None]}},
}


def test_the_headline_has_the_numbers_of_every_part():
    assert report_page.headline(ALL) == {
        "step": 3,
        "loss": 0.51234,
        "training loss above its floor": 0.1,
        "frechet, data": 0.141,
        "frechet, ddim, 11 evaluations": 0.25,
        "guidance": 2.0,
        "seen": 0.75,
        "held_out": 0.5,
        "clip score": 31.5,
        "accuracy, real": 0.9,
        "accuracy, synthetic": 0.8,
        "accuracy, both": 0.95,
        "psnr, dB": 30.25,
        "frechet, reconstructions": 0.0625,
        "seconds": 2.0,
    }


def test_the_page_has_the_numbers_of_every_part():
    """Four digits of a number, two of its standard error; none where it is not known."""
    page = report_page.markdown("run", ALL)
    for line in (
        "# run",
        "Loss of the test examples: 0.5123 ± 0.012.",
        "Loss of training examples above its floor: 0.1 ± 0.0045, 25% of the loss. The floor, "
        "which a network that remembers all of them has: 0.3 ± 0.012.",
        "## Samples against test images, pixels",
        "Of 7 test images: 30.25 ± 0.5 dB; Fréchet distance (pixels) 0.0625.",
        "Of 4 samples of 2 prompts, by small: 31.5 ± 0.25.",
    ):
        assert line in page.splitlines(), line
    assert "a share of 0.125 ± 0.04 is less than a third as far" in page
    assert "than a test example is with probability 0.5 ± 0.06 (1/2" in page
    assert "9 test images of a classifier that learnt from 90 training images" in page
    assert "3 seeds." in page
    rows = [[c.strip() for c in line.split("|")[1:-1]] for line in page.splitlines() if "|" in line]
    for row in (
        ["sampler", "nfe", "num", "frechet", "frechet standard error"],
        ["data", "", "5", "0.141", ""],
        ["ddim", "11", "5", "0.25 ± 0.012", "0.0123"],
        ["guidance", "prompts", "all", "colour"],
        ["2", "seen", "0.75", "1"],
        ["2", "held out", "0.5", "0.875"],
        ["real", "0.9 ± 0.01"],
        ["synthetic", "0.8 ± 0.01"],
        ["both", "0.95 ± 0.01"],
        ["log-SNR", "by noise"],
        ["-1.00", "0.5"],
        ["2.50", "0.25 ± 0.02"],
        ["log-SNR", "score error"],
        ["0.00", "0.125"],
    ):
        assert row in rows, row


def test_a_page_without_parts_is_its_title():
    assert report_page.markdown("run", {"step": 3, "seconds": 1.0}) == "# run\n"
