"""Networks `(x [b, ...], noise [b], cond, train) -> [b, ...]`; they know nothing of SDEs."""
