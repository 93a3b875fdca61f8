r"""A LoRA over the transformer of configs/emoji_text.py that learns from the cats alone.

After configs/emoji_text.py, which leaves runs/emoji,

    python main.py --mode train,sample --config configs/emoji_lora.py --workdir runs/emoji_lora \
        --config.sampling.prompts="('cat face with wry smile', 'smiling face with sunglasses')"

A few hundred steps are enough: there are about ten images. The second prompt shows how far other
emoji become cats.
"""

from ml_collections import ConfigDict

from configs import emoji_text


def get_config() -> ConfigDict:
    config = emoji_text.get_config()
    config.data.word = "cat"
    config.adapter = "lora(workdir='runs/emoji', rank=8)"
    config.optim.update(learning_rate=5e-4, warmup=20)
    config.train.update(steps=300, batch_size=16)
    return config
