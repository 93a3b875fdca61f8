"""Training: objectives, laws of t, weightings, the optimiser, the state and its averages."""
