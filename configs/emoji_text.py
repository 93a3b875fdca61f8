r"""Emoji from their names: a transformer that reads words, in latents of 8x8.

After configs/emoji_autoencoder.py,

    python main.py --mode encode --config configs/emoji_text.py --workdir runs/emoji
    python main.py --mode train,sample --config configs/emoji_text.py --workdir runs/emoji \
        --config.data="encoded(path='runs/emoji/encoded')" \
        --config.sampling.prompts="('smiling face with sunglasses', 'the red apple emoji')"

There are some 1,265 emoji to learn from. After 6,000 steps of 64 each of 64 samples of names that
training had is nearer to its emoji than to any other; of a new name the sample shows what its words
have meant. 41 minutes of processor time (benchmarks/emoji.py).
"""

from ml_collections import ConfigDict

from configs import shapes
from score_sde.data.emoji import vocabulary


def get_config() -> ConfigDict:
    config = shapes.get_config()
    config.data = ConfigDict({"name": "emoji", "image_size": 32, "augment": "none"})
    config.codec = "autoencoder(workdir='runs/emoji_autoencoder')"
    words = vocabulary()
    tokenizer = f"words(names={words}, length=16)"
    config.conditioner = f"text(tokenizer={tokenizer!r})"
    config.net.update(width=192, depth=6, num_heads=6, vocabulary=len(words) + 1)
    config.train.update(steps=6000, batch_size=64, sample_every=0)
    config.sampling.guidance = "classifier_free(weight=3.0)"
    config.evaluate.update(parts=("metrics",), world=None)
    return config
