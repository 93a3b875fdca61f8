r"""32x32 emoji of Noto Color Emoji, an autoencoder: latents of 8x8 with eight channels.

    python main.py --mode train,evaluate --config configs/emoji_autoencoder.py \
        --workdir runs/emoji_autoencoder

configs/emoji_text.py models the latents. On Debian and Ubuntu the font is the package
fonts-noto-color-emoji.
"""

from ml_collections import ConfigDict

from configs import shapes_autoencoder


def get_config() -> ConfigDict:
    config = shapes_autoencoder.get_config()
    config.data = ConfigDict({"name": "emoji", "image_size": 32, "augment": "none"})
    config.net.latent_channels = 8
    config.train.update(steps=1500, batch_size=32)
    return config
