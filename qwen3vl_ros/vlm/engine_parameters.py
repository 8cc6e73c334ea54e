"""The parameters of the engines of this package, a group for each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from qwen3vl_ros.ros.parameters import choice, number, text, texts

FITS: Final = ("contain", "cover", "fill")
FIT: Final = "How an image of another shape gets to the encoder's size: with black bars, cropped, or stretched."


@dataclass(frozen=True, slots=True)
class MaixHttp:
    """Engine maix_http: the NPU of a MaixCAM2 or another AX630C, through its HTTP service."""

    base_url: str = text("http://127.0.0.1:12346", "Address of the service, on the board itself or over the network.")
    model: str = text("", "Model that the service runs. Empty: the one it lists.")
    prompt_limit: int = number(
        0,
        0,
        262144,
        "Tokens that system prompt, image and question may have together. 0: the P of the model's name, else 320 for "
        "the MaixCAM2's model.",
    )
    context_length: int = number(
        0,
        0,
        262144,
        "Tokens that prompt and answer may have together. 0: the CTX of the model's name, else 448 for the MaixCAM2's "
        "model.",
    )
    input_size: int = number(
        0, 0, 4096, "Width and height in pixels of the model's encoder. 0: 448, as the service does not say."
    )
    fit: str = choice("contain", FITS, FIT)
    load_timeout: float = number(180.0, 1.0, 3600.0, "Seconds that the service gets to load its model.")
    first_token_timeout: float = number(
        60.0,
        1.0,
        3600.0,
        "Seconds from a request to the first token; also how long another client's question is waited for.",
    )
    token_timeout: float = number(15.0, 0.5, 3600.0, "Seconds from one token to the next.")


@dataclass(frozen=True, slots=True)
class Maix:
    """Engine maix: the same NPU through MaixPy, on the board."""

    model: str = text(
        "/root/models/Qwen3-VL-2B-Instruct-GPTQ-Int4-AX630C-P320-CTX448-maixcam2/model.mud",
        "Model description file (.mud).",
    )
    model_class: str = choice("Qwen3VL", ("Qwen3VL", "InternVL"), "Class of maix.nn that runs it.")
    fit: str = choice("contain", FITS, FIT)
    load_timeout: float = number(180.0, 1.0, 3600.0, "Seconds that the model gets to load.")


@dataclass(frozen=True, slots=True)
class Openai:
    """Engine openai: any server with OpenAI's chat completions."""

    base_urls: tuple[str, ...] = texts(
        ("",), "Addresses up to and with /v1, in order of preference: while one is dead, the next one is used."
    )
    model: str = text("", "Model to ask for. Empty: the only one that the server lists.")
    api_key_env: str = text("OPENAI_API_KEY", "Environment variable that has the API key.")
    api_key_file: str = text("", "File that has the API key; wins over the environment.")
    concurrency: int = number(4, 1, 256, "Questions that are sent at a time.")
    max_image_tokens: int = number(
        1024,
        1,
        16384,
        "Tokens an image may take, one per 32x32 pixels: a larger one is scaled down before sending. Goals and tasks "
        "may ask for more (docs/engines.md).",
    )
    jpeg_quality: int = number(90, 1, 100, "Quality of the JPEG that is sent.")
    context_length: int = number(0, 0, 10_000_000, "Tokens of prompt and answer together. 0: what the server says.")
    connect_timeout: float = number(3.0, 0.1, 600.0, "Seconds that connecting to an address may take.")
    first_token_timeout: float = number(60.0, 0.1, 3600.0, "Seconds from a request to the first token.")
    token_timeout: float = number(20.0, 0.1, 3600.0, "Seconds from one token to the next.")
    retries: int = number(
        2, 0, 20, "Maximum number of retries before the first token, after 429, 5xx or a lost connection."
    )
    retry_dead_after: float = number(30.0, 0.1, 3600.0, "Seconds after which an address that was dead is tried again.")


@dataclass(frozen=True, slots=True)
class Openvino:
    """Engine openvino: Qwen3-VL as OpenVINO IR."""

    model: str = text("", "Directory of the exported model; docs/openvino.md has the command that makes one.")
    device: str = text("CPU", "OpenVINO device: CPU, GPU, NPU, AUTO, ...")
    concurrency: int = number(4, 1, 64, "Questions that are answered at a time, on a CPU or a GPU; elsewhere one.")
    n_batch: int = number(64, 16, 4096, "Prompt tokens processed at a time; a running answer waits for them.")
    max_image_tokens: int = number(
        300,
        1,
        16384,
        "Tokens an image may take, one per 32x32 pixels. Goals and tasks may ask for more (docs/engines.md).",
    )
    context_length: int = number(4096, 256, 262144, "Tokens that images, prompt and answer may have together.")


@dataclass(frozen=True, slots=True)
class Llama:
    """Engine llama: a GGUF file on this machine's CPU, or its GPU."""

    model: str = text("", "GGUF file, or a directory with one. Empty: the small model that ships with the package.")
    mmproj: str = text("", "Multimodal projector file. Empty: the one beside the model.")
    n_ctx: int = number(4096, 256, 262144, "Tokens that images, prompt and answer may have together.")
    slots: int = number(2, 1, 32, "Questions answered at a time. Each has memory for n_ctx tokens.")
    n_batch: int = number(256, 32, 4096, "Prompt tokens processed at a time, fewer while other answers run.")
    n_threads: int = number(
        0, 0, 1024, "CPU threads. 0: one per physical core. Tokens of a model under 16 MB take one."
    )
    n_gpu_layers: int = number(
        -1, -1, 10000, "Layers of the language model on a GPU, where there is one. -1: all. 0: use the CPU alone."
    )
    state_directory: str = text(
        "",
        "Where prefixes of prompts are kept over a restart, readable for their owner only. Empty: nowhere.",
    )
    state_mb: int = number(256, 1, 1_000_000, "Disk space for them, in MB.")
    max_image_tokens: int = number(
        300,
        1,
        16384,
        "Tokens an image may take, one per 32x32 pixels; encoding time grows faster than this. Goals and tasks may ask "
        "for more (docs/engines.md).",
    )
