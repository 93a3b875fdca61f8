"""What every config starts from: the fields are listed in `score_sde/experiment/base.py`."""

from score_sde.experiment.base import get_config as get_config
