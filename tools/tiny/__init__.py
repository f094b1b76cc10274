"""How the built-in networks were trained: `python -m tools.tiny`."""
