"""A double of MaixPy: what engine ``maix`` uses of it, and its traps, as MaixCDK's sources have them.

Signatures are compared with the type stubs of the real package by test_maix_engine.py.
"""

__version__ = "double"
