"""The public names of the package."""

from regionspot_cache.extraction.partition import ExtractJob, PartitionReport, extract_partition
from regionspot_cache.extraction.run import extract

__all__ = ["ExtractJob", "PartitionReport", "extract", "extract_partition"]
