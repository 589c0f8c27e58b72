"""Readable torch modules of the original model: the yardstick every graph is measured against."""
