"""Where asv looks for types of benchmarks."""
