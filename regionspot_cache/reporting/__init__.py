"""Pictures and pages for people: drawn regions, attention maps, one self-contained HTML report."""
