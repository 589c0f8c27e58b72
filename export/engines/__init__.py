"""Compiling graphs for a device, and proving what the compiler made of them. No torch."""
