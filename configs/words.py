r"""Words of at most 12 letters, by masked diffusion.

python main.py --mode train,sample,likelihood --config configs/words.py --workdir runs/words

Of seed 0, after 20,000 steps of 256: at most 1.677 +- 0.013 bits a character, where a model of the
letters given the four before has 1.624 (benchmarks/words.py). 64 % of the samples of `unmask` in 12
steps are words, 87 % of those of `first_hitting`. About 12 minutes of processor time.
"""

from ml_collections import ConfigDict

from configs import digits, digits_tokens
from score_sde.experiment.base import net_fields
from score_sde.nets.mlp import MLP


def get_config() -> ConfigDict:
    config = digits.get_config()
    config.data = ConfigDict({"name": "words", "length": 12})
    config.codec = "tokens"
    config = digits_tokens.as_tokens(config, 27)
    config.net = net_fields("mlp.MLP", MLP)
    config.net.features = (1024, 1024, 1024)
    config.optim.learning_rate = 1e-3
    config.sampling.update(steps=12, num_samples=300, batch_size=300)
    config.train.update(steps=20000, batch_size=256)
    config.evaluate.parts = ("loss", "likelihood")
    config.likelihood.batch_size = 512
    return config
