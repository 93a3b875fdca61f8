r"""From an image to a video: moving shapes that begin with a given frame, and move as captions say.

    python main.py --mode train,evaluate,sample --config configs/moving_shapes_image.py \
        --workdir runs/moving_shapes_image
"""

from ml_collections import ConfigDict

from configs import moving_shapes


def get_config() -> ConfigDict:
    config = moving_shapes.get_config()
    config.conditioner = f"first_frame(text={config.conditioner!r})"
    config.net.cond_channels = 3
    forms = config.data.forms
    config.evaluate.world = (
        f"moving_shapes(forms={forms}, speeds=(1,), image_size=8, first_frame=True)"
    )
    return config
