"""What samples and models are worth: metrics, diagnostics, errors of solvers, pages and figures."""
