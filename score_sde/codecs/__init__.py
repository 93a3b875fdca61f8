"""From the raw parts of an example to the network's space, and back."""
