"""`rs-cache reproduce`: the tables of the paper as configs, one file a row, and one verb that runs them."""
