"""The operating system: its calls, through ctypes, and its files in /proc and /sys.

Nothing is imported here: the sampler, which has to start fast, needs `proc` alone.
"""
