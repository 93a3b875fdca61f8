"""What a network reads besides x and the noise level: labels, vectors and images."""
