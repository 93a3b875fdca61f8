"""A network with its process and prediction; guidance, thresholding and adapters."""
