"""Tasks that start from images, and watermarks."""
