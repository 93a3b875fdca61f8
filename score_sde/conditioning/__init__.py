"""What a conditional network is told besides the noise level."""
