"""The dashboard of benchmark results: its parts from elsewhere, a server, a check."""
