"""The miniature: a small Audio-Omni, trained on procedural sound, whose tasks have answers."""
