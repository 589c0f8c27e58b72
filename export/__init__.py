"""From a checkpoint in the official format to a bundle; needs the `export` extra (torch, onnx)."""
