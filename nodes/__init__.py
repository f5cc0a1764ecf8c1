"""The nodes: every technique one file, the maths first and the node class last."""
