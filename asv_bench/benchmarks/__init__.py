"""The asv suite: memory, time and score side by side."""
