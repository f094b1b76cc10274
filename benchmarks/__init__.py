"""What measures this package against what people use for each part: `python -m benchmarks`."""
