"""The engine ``maix``: MaixPy on the board itself."""
