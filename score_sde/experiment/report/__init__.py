"""The parts of the report of mode evaluate, one a file."""
