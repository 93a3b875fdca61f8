"""From a config to objects, and what a workdir holds."""
