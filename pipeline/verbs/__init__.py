"""The verbs of the command line: their options, and the function of the pipeline that each one calls.

What a verb needs is imported when it runs, so that `--help` answers at once.
"""
