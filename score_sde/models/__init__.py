"""Networks with a process and a prediction, and what changes their denoisers."""
