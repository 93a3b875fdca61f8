"""The page's parts on other kinds of data: nothing is told which they are."""

import numpy as np
import pytest
from PIL import Image

from score_sde.app import asking
from score_sde.app.offers import offers
from score_sde.app.studio import Studio
from score_sde.app.watching import Watch
from score_sde.media import wav
from score_sde.modes.sample import sample
from tests.long import test_points_modes, test_sound_modes, test_video_modes
from tests.long.modes import test_token_modes
from tests.modes.test_train import untrained
from tests.stored import arrays

KINDS = {
    "sounds": lambda: test_sound_modes.small("waveform"),
    "points": test_points_modes.small,
    "clips": test_video_modes.small,
    "tokens": test_token_modes.small,
}


@pytest.mark.parametrize("kind", KINDS)
def test_it_draws_as_the_medium_does(kind, tmp_path):
    config = KINDS[kind]()
    untrained(config, tmp_path)
    ours = Studio(config, tmp_path, ["python", "main.py", "--config=x", f"--workdir={tmp_path}"])
    offered = offers(config, ours.experiment)
    assert offered.image is None  # edits by painting are of images
    assert offered.latents == (kind != "tokens")
    assert offered.sound == (kind == "sounds")
    options = config.sampling
    asked = asking.drawing(
        offered.field or "labels",
        wanted="",
        unwanted="",
        guidance=options.guidance or "unguided",
        solver=options.solver,
        grid=options.grid,
        steps=3,
        samples=8,
        seed=1,
        files=offered.sound,
    )
    watch = Watch()
    figure = ours.sample(asked, watch)
    sample(asking.config_of(config, asked), tmp_path)
    found, wanted = (arrays(folder / "samples.npz") for folder in (figure.folder, tmp_path))
    assert found.keys() == wanted.keys()
    for name in found:
        np.testing.assert_array_equal(found[name], wanted[name])
    path = ours.preview(watch.newer(0.0), 8, tmp_path / "preview.png")
    with Image.open(path) as estimates, Image.open(figure.picture) as drawn:
        assert estimates.size == drawn.size
        assert getattr(estimates, "n_frames", 1) == getattr(drawn, "n_frames", 1)
    heard = [path for path in figure.files if path.suffix == ".wav"]
    assert len(heard) == 8 * (kind == "sounds")
    assert all(map(wav.says_generated, heard))
