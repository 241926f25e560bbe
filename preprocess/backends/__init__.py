"""Where answers come from: a server behind HTTP, or a model on this machine."""
