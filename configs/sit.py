r"""SiT (arXiv:2401.08740): the transformers of DiT, trained as rectified flows.

    python main.py --mode train --config configs/sit.py:XL/2 --config.data.path=LATENTS.npz \
        --workdir runs/sit
    python main.py --mode import,sample --config configs/sit.py:SOURCE --source SOURCE \
        --workdir runs/imported

Settings and LATENTS.npz are those of configs/dit.py; SOURCE is a published or own file of SiT
(.pt). SiT's time runs from noise at 0 to data at 1, and the network predicts x_0 - z; times of this
code run the other way, so the network sees 1 - t. Half of a published head is not used.

Published FID of 50,000 guided images of 256 pixels (the readme of their code): XL/2 2.06, by the
SDE. The weight of guidance, 1.5, is quoted from memory.
    --config.sampling.guidance="classifier_free(weight=1.5)"
"""

from ml_collections import ConfigDict

from configs import dit


def get_config(setting: str = "XL/2") -> ConfigDict:
    config = dit.latents(setting)
    config.sde = "Flow"
    config.parametrization = "flow_to_data"
    config.c_noise = "reversed_time"
    config.objective.weighting = "flow"
    config.sampling.solver = "probability_flow(rtol=1e-3, atol=1e-6)"
    config.sampling.steps = 1  # the solver chooses its own within
    return config
