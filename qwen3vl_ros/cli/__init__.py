"""The command line ``qwen3vl-ros``."""
