"""What training minimises, one objective a file; `objective.name` in a config is a file's name."""
