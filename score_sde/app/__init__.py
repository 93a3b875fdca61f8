"""The page of mode app: what can be asked of a model, samples with progress, the page itself."""
