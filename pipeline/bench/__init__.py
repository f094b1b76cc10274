"""`rs-cache bench`: one module a benchmark, each against named peers in the same run."""
