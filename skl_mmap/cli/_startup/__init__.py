"""What the interpreter of a script runs first under ``skl-mmap run``."""
