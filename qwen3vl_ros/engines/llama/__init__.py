"""The engine ``llama``: llama.cpp in this process, through llama-cpp-python."""
