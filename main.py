"""Train, sample, score: `python main.py --mode train --config configs/digits.py --workdir DIR`."""

from score_sde.command_line import run

if __name__ == "__main__":
    run()
