"""Mixtures: every example of every source, each source with its share."""

from collections import Counter

import numpy as np
import pytest

from score_sde.config import build
from score_sde.data import Arrays, Data, labelled_images
from score_sde.data.mixture import mixture
from score_sde.errors import ConfigError, DataError
from score_sde.experiment.base import part_of
from score_sde.experiment.build import load_data
from score_sde.types import Feature
from tests import perceptron


def of_values(name, values, size=2, **more):
    """Images of one value each."""
    images = np.broadcast_to(np.uint8(values)[:, None, None, None], (len(values), size, size, 1))
    source = Arrays(image=images, label=np.zeros(len(values), np.int32))
    return Data(name, source, source, labelled_images((size, size, 1)) | more)


def counted(source):
    return Counter(int(source[i]["image"][0, 0, 0]) for i in range(len(source)))


def test_a_small_data_set_is_repeated_to_its_share():
    """Three of a subject and twelve of its class: each subject four times, or eight times with
    twice the weight; or all of the subject once, and of the class what is left."""
    subject, others = of_values("subject", [1, 2, 3]), of_values("class", range(10, 22))
    for weights, of_subject in (((), 12), ((1, 1), 12), ((2.0, 1.0), 24), ((1, 4), 3)):
        both = mixture((subject, others), weights=weights)
        found = counted(both.train)
        assert sum(found[value] for value in (1, 2, 3)) == of_subject
        assert {found[value] for value in (1, 2, 3)} == {of_subject // 3}
        assert [found[value] for value in range(10, 22)] == [1] * 12
        assert counted(both.test) == found
    assert both.name == "subject+class"
    assert both.train[-1]["image"][0, 0, 0] == 21
    with pytest.raises(IndexError):
        both.train[len(both.train)]


def test_a_caption_for_each():
    subject, others = of_values("subject", [1]), of_values("class", [10, 11])
    both = mixture((subject, others), captions=("a sks dog", "a dog"))
    assert both.features["caption"] == Feature((1,), None, text=True)
    found = {
        (int(e["image"][0, 0, 0]), *e["caption"].tolist())
        for e in map(both.train.__getitem__, range(4))
    }
    assert found == {(1, "a sks dog"), (10, "a dog"), (11, "a dog")}


def test_mistakes():
    one, large = of_values("one", [1]), of_values("large", [2], size=3)
    for options, message in (
        ({"of": ()}, "a mixture needs data sets"),
        ({"of": (one, one), "weights": (1.0,)}, "a mixture of 2 data sets has 1 weights"),
        ({"of": (one,), "captions": ("a", "b")}, "a mixture of 1 data sets has 2 captions"),
        ({"of": (one, one), "weights": (1.0, 0.0)}, "must be positive, not 0.0"),
        ({"of": (one, large)}, "the examples of large and one have different parts"),
    ):
        with pytest.raises(DataError, match=message) as caught:
            mixture(**options)
        assert len(str(caught.value).splitlines()) == 1


def test_a_config_names_the_data_sets():
    config = perceptron.get_config()
    config.data = part_of('mixture(of=("digits()", "digits()"), weights=(1, 3))')
    both, digits = load_data(config), build("data", "digits()")
    assert len(both.train) == 4 * len(digits.train)
    config.data = part_of('mixture(of=("digitz()",))')
    with pytest.raises(ConfigError, match="did you mean 'digits'"):
        load_data(config)
