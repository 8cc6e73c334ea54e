"""How the small model in `models/tabletop` was made, end to end (see README.md)."""
