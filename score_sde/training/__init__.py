"""What training minimises, and its state: losses, laws of t, weightings, optimiser, averages."""
