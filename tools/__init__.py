"""What made the package's own data; not part of an installation."""
