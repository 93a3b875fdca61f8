"""The quality of samples, models and solvers: metrics, diagnostics, errors, pages, figures."""
