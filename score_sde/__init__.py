"""Score-based SDE and diffusion models in JAX, proven against exact scores."""

__version__ = "0.2.0"
