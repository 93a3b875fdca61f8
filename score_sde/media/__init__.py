"""How samples of a kind are written and looked at, one kind a file."""
