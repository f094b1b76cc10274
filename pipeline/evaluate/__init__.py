"""`rs-cache eval`: methods and results files of one dataset, scored by one protocol."""
