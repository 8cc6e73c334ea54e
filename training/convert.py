"""A Hugging Face Qwen3-VL folder to the GGUF pair that llama.cpp loads.

    python -m training.convert HF_DIR OUT_DIR --name tabletop --outtype f16

The converter is llama.cpp's own, from the source distribution of the llama-cpp-python release
that runs the model, so that the two always agree. pip fetches it once into the cache folder.
"""

import argparse
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

LLAMA_CPP_PYTHON = "0.3.36"
DEFAULT_CACHE = Path(__file__).resolve().parents[1] / "build" / "llama_cpp"
_CONVERTER_PARTS = ("convert_hf_to_gguf.py", "conversion", "gguf-py")


def convert(
    hf_dir: Path,
    out_dir: Path,
    outtype: str = "f16",
    *,
    name: str = "model",
    options: Sequence[str] = (),
    cache_dir: Path = DEFAULT_CACHE,
) -> tuple[Path, Path]:
    """Write `NAME-OUTTYPE.gguf` and `mmproj-NAME-OUTTYPE.gguf` into `out_dir`; return both paths.

    `outtype` is one of the converter's: f32, f16, bf16, q8_0; `options` are others of its options, for
    the language model. Raises RuntimeError with the converter's last words where it fails.
    """
    llama_cpp = fetch_converter(cache_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    model = out_dir / f"{name}-{outtype}.gguf"
    mmproj = out_dir / f"mmproj-{name}-{outtype}.gguf"
    # The file's own metadata is named after the folder: give it the model's name.
    with tempfile.TemporaryDirectory() as scratch:
        named = Path(scratch) / name
        named.symlink_to(hf_dir.resolve(), target_is_directory=True)
        for target, extra in ((model, options), (mmproj, ["--mmproj"])):
            _run(
                [
                    sys.executable,
                    str(Path(__file__).with_name("llama_cpp_converter.py")),
                    str(llama_cpp),
                    str(named),
                    *("--outfile", str(target), "--outtype", outtype, *extra),
                ]
            )
    return model, mmproj


def fetch_converter(cache_dir: Path = DEFAULT_CACHE) -> Path:
    """Folder with llama.cpp's converter, fetched through pip unless the cache has it."""
    folder = cache_dir / f"llama_cpp_python-{LLAMA_CPP_PYTHON}"
    if folder.is_dir():
        return folder
    cache_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_dir) as scratch:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", scratch]
        pip += ["--no-binary", "llama-cpp-python", f"llama-cpp-python=={LLAMA_CPP_PYTHON}"]
        _run(pip)
        (archive,) = Path(scratch).glob("*.tar.gz")
        partial = Path(scratch) / "llama.cpp"
        with tarfile.open(archive) as tar:
            for member in tar.getmembers():
                _, _, inside = member.name.partition("/vendor/llama.cpp/")
                if member.isfile() and inside.split("/")[0] in _CONVERTER_PARTS:
                    member.name = inside
                    tar.extract(member, partial, filter="data")
        try:
            partial.rename(folder)
        except OSError:
            if not folder.is_dir():  # another process was faster
                raise
    return folder


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
        raise RuntimeError(f"{' '.join(command)} failed with status {done.returncode}:\n{tail}")


def main() -> None:
    """The command line; see above."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("hf_dir", type=Path)
    parser.add_argument("out_dir", type=Path)
    parser.add_argument("--name", default="model")
    parser.add_argument("--outtype", default="f16", choices=["f32", "f16", "bf16", "q8_0"])
    parser.add_argument("--cache-dir", type=Path, default=DEFAULT_CACHE)
    args = parser.parse_args()
    for path in convert(args.hf_dir, args.out_dir, args.outtype, name=args.name, cache_dir=args.cache_dir):
        print(path, f"{path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
