"""Mode import of EDM's pickles."""

import json

import jax
import numpy as np
import pytest

from configs import edm, edm2
from score_sde import published
from score_sde.errors import CheckpointError
from score_sde.experiment import workdirs
from score_sde.modes.import_ import import_
from tests import edm_file
from tests.published_cases import GOLDEN

FILES = {"ddpmpp": (edm, "EDM, EDMPrecond", 48_395), "edm2": (edm2, "EDM2, Precond", 45_859)}


@pytest.mark.parametrize("case", FILES)
def test_a_workdir_of_a_file(case, tmp_path):
    """The config is told by the file; EDM2's weights of 16 bits become float32."""
    module, kind, size = FILES[case]
    source = GOLDEN / "edm" / f"{case}.pkl"
    config = module.get_config(str(source))
    found = import_(config, tmp_path / "run", source)
    assert (found["kind"], found["parameters"], found["step"]) == (kind, size, 0)
    assert json.loads((tmp_path / "run" / "import.json").read_text()) == found
    restored = workdirs.restore(config, tmp_path / "run")
    experiment = restored.experiment
    expected = published.load(source, experiment.model.net, experiment.codec.shape)
    assert {leaf.dtype for leaf in jax.tree.leaves(restored.params)} == {np.dtype(np.float32)}
    jax.tree.map(np.testing.assert_array_equal, restored.params, expected.params)


def test_nothing_is_written_of_a_file_that_is_refused(tmp_path):
    config = edm.get_config(str(GOLDEN / "edm" / "ddpmpp.pkl"))
    hostile, cut = tmp_path / "hostile.pkl", tmp_path / "cut.pkl"
    edm_file.write(hostile, {"ema": edm_file.Call("os.system", f"touch {tmp_path}/executed")})
    cut.write_bytes((GOLDEN / "edm" / "ddpmpp.pkl").read_bytes()[:-500])
    other = GOLDEN / "edm" / "edm2.pkl"
    for source, message in [
        (hostile, "is refused: it names posix.system"),
        (cut, "is damaged"),
        (other, "holds a EDM2UNet, and net is a SongUNet"),
        (tmp_path / "none.pkl", "does not exist"),
    ]:
        with pytest.raises(CheckpointError, match=message) as raised:
            import_(config, tmp_path / "run", source)
        assert "\n" not in str(raised.value)
        assert not (tmp_path / "run").exists()
    assert not (tmp_path / "executed").exists()
