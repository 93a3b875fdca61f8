"""One module a mode of the command line, found by its name."""
