"""The verbs of the command line, a file each: its settings, and the function of the pipeline that it calls.

What a verb needs is imported when it runs, so that `--help` answers at once.
"""
