"""The unit of work: one partition of images through the frozen networks and into the cache.

A plain function of (job, partition), so that any executor can run it anywhere, and twice does no harm.
"""

import os
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
