"""From what a person gives to what a graph takes: one input kind per file."""
