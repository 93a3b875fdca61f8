r"""text8 by masked diffusion, with the settings of MD4 (arXiv:2406.04329): 12 layers of 768
channels, rows of 256 characters of 27, 1,000,000 steps of 512.

    python main.py --mode train,likelihood --config configs/text8.py --workdir runs/text8 \
        --config.data.path=text8.txt

text8.txt is the first 10^8 characters of Wikipedia, the file in
http://mattmahoney.net/dc/text8.zip.
Published bits a character of the test text (the papers'): autoregressive 1.23, MD4 1.37, SEDD 1.39,
D3PM 1.45, UDLM 1.59. Not trained here: it needs several accelerators.
"""

from ml_collections import ConfigDict

from configs import text


def get_config() -> ConfigDict:
    config = text.get_config()
    config.data.update(length=256, tokens="characters", test_fraction=0.05)
    config.parametrization = "without_itself(values=27)"
    config.net.update(width=768, depth=12, num_heads=12, dropout=0.0, out_channels=27)
    config.optim.update(learning_rate=5e-4, warmup=2000, schedule="constant")
    config.optim.optimizer = "adamw(b2=0.98, weight_decay=0.03)"
    config.train.update(steps=1_000_000, batch_size=512, checkpoint_every=10_000)
    config.train.update(ema_rates=(0.9999,), ema_warmup=False)
    config.sampling.update(steps=256)
    config.likelihood.bound = "elbo(draws=4)"
    return config
