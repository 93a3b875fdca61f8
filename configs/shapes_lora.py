r"""A LoRA: the transformer of configs/shapes.py learns one more colour from 20 images.

After `make demo-text`, which leaves runs/shapes, the base draws images of what it knows, so that
what it draws stays as it was:

    python main.py --mode sample --config configs/shapes.py --workdir runs/shapes \
        --config.sampling.world="shapes(seed=1)" --config.sampling.num_samples=512 \
        --config.sampling.as_data=runs/shapes_drawn
    python main.py --mode train,evaluate --config configs/shapes_lora.py --workdir runs/shapes_lora

The word "orange" is not in the list of the base: its token is that of an unknown word, which no
caption of the base had. The evaluation asks for the new colour and for what the base had seen: at a
weight of 2, 96.1 % of 256 samples are orange where they should be, and 92.6 % of what was seen is
all as asked (96.1 % by the base). The row of the word alone learns the colour better, 97.7 %, and
changes nothing else:

    python main.py --mode train,evaluate --config configs/shapes_lora.py \
        --workdir runs/shapes_word --config.optim.learning_rate=1e-2 \
        --config.adapter="rows(workdir='runs/shapes', numbers=(28,))"
"""

from ml_collections import ConfigDict

from configs import shapes

NEW = "shapes(colours=('orange',), train=20, test=100)"
# like the captions and labels of `shapes`, so that the two mix
DRAWN = (
    "folder(path='runs/shapes_drawn', image_size=32, caption_field='text', num_captions=3, "
    "num_classes=24)"
)


def get_config() -> ConfigDict:
    config = shapes.get_config()
    config.sampling.update(solver="dpmpp", steps=20)
    config.data = ConfigDict({"name": "mixture", "of": (NEW, DRAWN), "augment": "none"})
    config.adapter = "lora(workdir='runs/shapes', rank=8)"
    config.train.update(steps=1500, batch_size=32, sample_every=0)
    config.evaluate.update(world="new_colour", weights=(1.0, 2.0, 3.0))
    return config
