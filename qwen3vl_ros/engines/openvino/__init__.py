"""The engine ``openvino``: OpenVINO GenAI on Intel hardware."""
