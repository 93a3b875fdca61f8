r"""DreamBooth: the transformer of configs/shapes.py learns orange circles from 5 images.

After `make demo-text`, which leaves runs/shapes, the base draws images of the class, which are
circles:

    python main.py --mode sample --config configs/shapes.py --workdir runs/shapes \
        --config.sampling.world="shapes(forms=('circle',), seed=1)" \
        --config.sampling.num_samples=200 --config.sampling.as_data=runs/circles_drawn
    python main.py --mode train,evaluate --config configs/shapes_dreambooth.py \
        --workdir runs/shapes_dreambooth

Without prior preservation it learns from the subject alone:

    python main.py --mode train,evaluate --config configs/shapes_dreambooth.py \
        --workdir runs/shapes_no_prior \
        --config.data="shapes(colours=('orange',), forms=('circle',), train=5, test=100)"

The evaluation asks for the subject ("new") and for the class ("seen"). The drift of the class is
what "seen" has lost beside the base. At a weight of 2, 81.6 % of the subject and 96.1 % of the
class are all as asked; without prior preservation 27.7 % and 0 %.
"""

from ml_collections import ConfigDict

from configs import shapes

SUBJECT = "shapes(colours=('orange',), forms=('circle',), train=5, test=100)"
# like the captions and labels of `shapes`, so that the two mix
CLASS = (
    "folder(path='runs/circles_drawn', image_size=32, caption_field='text', num_captions=3, "
    "num_classes=24)"
)


def get_config() -> ConfigDict:
    config = shapes.get_config()
    config.sampling.update(solver="dpmpp", steps=20)
    config.data = ConfigDict({"name": "mixture", "of": (SUBJECT, CLASS), "augment": "none"})
    config.adapter = "full(workdir='runs/shapes')"
    config.optim.update(learning_rate=2e-4, warmup=50)
    config.train.update(steps=800, batch_size=32, sample_every=0)
    config.evaluate.update(world="new_colour(forms=('circle',))", weights=(1.0, 2.0, 3.0))
    return config
