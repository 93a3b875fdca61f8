r"""8x8 digits in one to four evaluations: terminal velocity matching, without a teacher.

    python main.py --mode train,evaluate --config configs/digits_terminal_velocity.py \
        --workdir runs/terminal_velocity
"""

from ml_collections import ConfigDict

from configs import digits_mean_flow


def get_config() -> ConfigDict:
    config = digits_mean_flow.get_config()
    config.objective.update({"name": "terminal_velocity", "distance": "squared", "equal": 0.0})
    return config
