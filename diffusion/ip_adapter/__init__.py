"""IP-Adapters (Ye et al. 2023): a picture as a prompt, by attention of its own beside that to the text."""
