"""What users have: arrays, data frames, sparse matrices, all behind one protocol."""

import skl_mmap.containers._numpy  # noqa: F401 - registers arrays
from skl_mmap.containers._container import (
    Container,
    GeometryOf,
    RowSize,
    container_of,
    count_bytes,
    known_containers,
    register,
)
from skl_mmap.containers._gathering import count_rows, gather, restore
from skl_mmap.containers._share import share

__all__ = [
    "Container",
    "GeometryOf",
    "RowSize",
    "container_of",
    "count_bytes",
    "count_rows",
    "gather",
    "known_containers",
    "register",
    "restore",
    "share",
]
