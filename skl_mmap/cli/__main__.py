"""``python -m skl_mmap.cli``, for where the ``skl-mmap`` script is not on the path."""

import sys

from skl_mmap.cli import main

if __name__ == "__main__":
    sys.exit(main())
