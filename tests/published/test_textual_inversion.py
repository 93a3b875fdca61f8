"""Textual inversion: what encoders make of prompts with new words is what diffusers has."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from score_sde.conditioning import tokenizers
from score_sde.conditioning.encoded_text import text_of
from score_sde.config import build
from score_sde.errors import ConfigError
from score_sde.experiment import frozen
from score_sde.experiment.build import completed
from score_sde.experiment.new_words import with_files, with_words
from score_sde.published import stable_diffusion, textual_inversion
from tests.golden.make_words import PROMPTS
from tests.published_cases import GOLDEN
from tests.stored import arrays

FILES = GOLDEN / "words"
OUTPUTS = arrays(FILES / "outputs.npz")
OF = {"sd15": ("cat-toy", "lines"), "sdxl": ("gnome",)}


def conditioner_of(base):
    spec = stable_diffusion.describe(GOLDEN / "pipelines" / base).conditioner
    return completed(build("conditioning", spec, {}), lambda folder: frozen.load(folder, None))


def read(*names):
    return [textual_inversion.read(FILES / name) for name in names]


def context(conditioner, prompts):
    tokens = conditioner.read({"caption": prompts})["token"]
    return conditioner.encode({"token": tokens[:, None]})["context"]


@pytest.mark.parametrize("base", OF)
def test_prompts_with_new_words_are_read_as_by_diffusers(base):
    """A word of several tokens, one in capitals, and words beside each other."""
    plain = conditioner_of(base)
    text = with_words(plain, read(*(f"{name}.safetensors" for name in OF[base])))
    for i, tokenizer in enumerate(text.tokenizer.tokenizers):
        np.testing.assert_array_equal(tokenizer(PROMPTS), OUTPUTS[f"{base}_ids_{i + 1}"])
    found, wanted = context(text, PROMPTS)[:, :16], OUTPUTS[base]
    assert np.abs(found - wanted).max() < 1e-4 * np.abs(wanted).max()
    # prompts without the words stay, and the digest does not
    for known, unknown in zip(
        context(text, [PROMPTS[2]]), context(plain, [PROMPTS[2]]), strict=True
    ):
        np.testing.assert_array_equal(known, unknown)
    assert text.digests != plain.digests


def test_the_vector_of_a_prompt_is_that_of_its_end():
    """The largest id is that of the new word, where an old encoder would look."""
    plain = conditioner_of("sdxl")
    text, tokenizer = with_words(plain, read("gnome.safetensors")), plain.tokenizer.tokenizers[1]
    ids = text.tokenizer.tokenizers[1](["a gnome here"])
    states = text.modules[1].apply({"params": text.params[1]}, jnp.asarray(ids))
    end = list(ids[0]).index(tokenizer.after[0])
    known = text.modules[1].apply({"params": text.params[1]}, jnp.asarray(ids[:, : end + 1]))
    np.testing.assert_allclose(states.pooled, known.pooled, rtol=1e-5, atol=1e-6)
    assert ids.max() > tokenizer.after[0]


def test_every_kind_of_file_says_the_same():
    named, pickled = read("cat-toy.safetensors", "cat-toy.bin")
    assert named.name == pickled.name == "<cat-toy>"
    np.testing.assert_array_equal(named.rows[0], pickled.rows[0])
    plain, other = read("lines.safetensors", "lines_1111.safetensors")
    assert (plain.name, other.name) == ("lines", "lines_1111")
    np.testing.assert_array_equal(plain.rows[0], other.rows[0])
    assert plain.rows[0].shape[0] == 3


@pytest.mark.parametrize(
    ("source", "form", "name"),
    [
        ("cat-toy", "diffusers", "<cat-toy>"),
        ("lines", "diffusers", "lines"),
        ("lines_1111", "automatic1111", "lines_1111"),
        ("gnome", "automatic1111", "gnome"),
    ],
)
def test_what_is_written_are_the_files_of_others(source, form, name, tmp_path):
    """Their arrays by their names, to the last bit; and they are read again. One of them has its
    only row without an axis."""
    (word,) = read(f"{source}.safetensors")
    assert word.name == name
    textual_inversion.write(tmp_path, name, word.rows, form)
    (path,) = tmp_path.iterdir()
    ours, theirs = load_file(path), load_file(FILES / f"{source}.safetensors")
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        np.testing.assert_array_equal(ours[key], np.atleast_2d(value))
    again = textual_inversion.read(path)
    assert again.name == name
    for one, other in zip(again.rows, word.rows, strict=True):
        np.testing.assert_array_equal(one, other)


def test_diffusers_has_one_encoder_in_a_file(tmp_path):
    with pytest.raises(ValueError, match="of diffusers is not for 2 encoders"):
        textual_inversion.write(tmp_path, "gnome", read("gnome.safetensors")[0].rows, "diffusers")


def test_a_text_that_is_too_long_loses_whole_tokens():
    tokenizer = tokenizers.load(GOLDEN / "pipelines" / "sd15" / "tokenizer").with_words(
        {"lines": 3}
    )
    with pytest.warns(UserWarning, match=r"loses its last 1 tokens, 'lines'"):
        row = tokenizer(["a" + " lines" * 25])[0]
    assert row[-2] == tokenizer.vocabulary - 2  # two tokens of the last word are left


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (("none.safetensors",), "none.safetensors cannot be read: No such file"),
        (("cut.safetensors",), "cut.safetensors"),
        (("two.safetensors",), "no textual inversion, which has one array by the name of its word"),
        (("deep.safetensors",), r"its arrays have the shapes \(1, 2, 3\)"),
        (("nan.safetensors",), "not finite"),
        (("wide.safetensors",), r"made for encoders of \[5\] channels, and these have \[12\]"),
        (("word.safetensors", "word.safetensors"), "two files have the word 'word'"),
    ],
)
def test_wrong_files(files, message, tmp_path):
    row = np.ones((1, 12), np.float32)
    save_file({"word": row}, tmp_path / "word.safetensors")
    save_file({"a": row, "b": row}, tmp_path / "two.safetensors")
    save_file({"word": np.ones((1, 2, 3), np.float32)}, tmp_path / "deep.safetensors")
    save_file({"word": row * np.nan}, tmp_path / "nan.safetensors")
    save_file({"word": row[:, :5]}, tmp_path / "wide.safetensors")
    whole = (tmp_path / "word.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:-3])

    @dataclasses.dataclass
    class Given:
        conditioner = conditioner_of("sd15")

    with pytest.raises(ConfigError, match=message) as error:
        with_files(Given(), [str(tmp_path / name) for name in files])
    assert "\n" not in str(error.value)


def test_labels_read_no_words():
    with pytest.raises(ValueError, match="has no text encoders"):
        text_of(build("conditioning", "labels", {}))


def test_a_word_in_the_vocabulary_is_refused():
    assert load_file(FILES / "lines.safetensors")["lines"].shape == (3, 12)
    tokenizer = tokenizers.load(GOLDEN / "pipelines" / "sd15" / "tokenizer")
    with pytest.raises(ValueError, match="has the word 'a</w>' already"):
        tokenizer.with_words({"a</w>": 1})
