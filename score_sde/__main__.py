"""`python -m score_sde ...` takes the flags of main.py, and needs no checkout."""

from score_sde.command_line import run

if __name__ == "__main__":
    run()
