"""Download a Qwen3-VL GGUF model and its projector from a Hugging Face repository: resumable, checked, cached."""

from __future__ import annotations

import fcntl
import hashlib
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

MODEL_QUANTS = ("Q4_K_M", "Q4_K_S", "Q5_K_M", "Q6_K", "Q8_0", "BF16", "F16")
"""Quantisations of the language model, in order of preference."""

MMPROJ_QUANTS = ("Q8_0", "BF16", "F16", "F32")
"""Quantisations of the projector. Q8_0 is half as large; BF16 encodes an image in 4.6 s, not 5.9 s (2B, 2 cores)."""

_PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")


class DownloadError(Exception):
    """A model could not be downloaded; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Downloaded:
    """Paths of the files. ``model``: the first part of a split one. ``mmproj``: None if the repository has none."""

    model: Path
    mmproj: Path | None


def download(
    repo: str,
    *,
    quant: str = "",
    mmproj_quant: str = "",
    directory: Path | None = None,
    revision: str = "main",
    report: Callable[[str], None] = lambda _: None,
) -> Downloaded:
    """Download model and projector of ``repo`` into the Hugging Face cache, or into ``directory``/OWNER/NAME.

    Complete files are not downloaded again, interrupted downloads are resumed, and every file is compared with its
    SHA-256. Before anything is downloaded, there must be room for all of it.

    Args:
        repo: OWNER/NAME.
        quant: Name such as "Q4_K_M"; "" = the first of MODEL_QUANTS that the repository has.
        mmproj_quant: Name such as "Q8_0"; "" = the first of MMPROJ_QUANTS that the repository has.
        directory: Has a folder for each repository, as files of different ones have the same name; None = the cache.
        revision: Branch, tag or commit.
        report: Takes sentences about what is downloaded.

    Raises:
        DownloadError: A file does not exist, has no room or cannot be downloaded.
    """
    from huggingface_hub import HfApi, errors

    # The base class is that of requests, httpx or httpx2, by the library's version; it includes failed connections.
    http_error = cast("type[Exception]", errors.HfHubHTTPError.__bases__[0])
    try:
        info = HfApi().model_info(repo, revision=revision, files_metadata=True)
        files = {file.rfilename: file for file in info.siblings or []}
        parts, mmproj = choose(repo, list(files), quant, mmproj_quant)
        commit = info.sha or revision
        chosen = [files[name] for name in [*parts, *([mmproj] if mmproj else [])]]
        total = sum(file.size or 0 for file in chosen)
        for file in chosen:
            report(f"{file.rfilename}: {_gigabytes(file.size or 0)}")
        if warning := memory_warning(total):
            report(warning)
        _check_room(repo, chosen, directory)
        places = [_fetch(repo, file, commit, directory) for file in chosen]
    except errors.HFValidationError as error:
        raise DownloadError(f"{repo!r} is no repository name; write OWNER/NAME, as in {_EXAMPLE}.") from error
    except errors.GatedRepoError as error:
        raise DownloadError(
            f"{repo} asks for a login: accept its terms on its page, then run `hf auth login` and try again."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise DownloadError(
            f"There is no repository {repo} (or it is private: `hf auth login`). Try {_EXAMPLE}."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise DownloadError(f"{repo} has no revision {revision}; leave --revision out for the newest.") from error
    except errors.OfflineModeIsEnabled as error:
        raise DownloadError("HF_HUB_OFFLINE is set; unset it to download.") from error
    except (http_error, OSError) as error:
        raise DownloadError(
            f"The download of {repo} stopped: {_first_line(error)}. Run the same command again: it goes on where it "
            "stopped. Behind a mirror, set HF_ENDPOINT; behind a proxy, HTTPS_PROXY."
        ) from error
    return Downloaded(places[0], places[-1] if mmproj else None)


_EXAMPLE = "Qwen/Qwen3-VL-2B-Instruct-GGUF"


def choose(repo: str, names: Sequence[str], quant: str = "", mmproj_quant: str = "") -> tuple[list[str], str | None]:
    """Choose the files of the model (several if it is split) and of its projector from a repository's file names."""
    ggufs = sorted(name for name in names if name.lower().endswith(".gguf"))
    projectors = [name for name in ggufs if "mmproj" in Path(name).name.lower()]
    # An importance matrix is what a model was quantised with.
    models = [name for name in ggufs if name not in projectors and "imatrix" not in Path(name).name.lower()]
    if not models:
        raise DownloadError(f"{repo} has no GGUF model; a repository whose name ends in -GGUF does. Try {_EXAMPLE}.")
    model = _pick(repo, models, quant, MODEL_QUANTS)
    parts = [model]
    if split := _PART.search(model):
        parts = [name for name in models if name.startswith(model[: split.start()]) and _PART.search(name)]
        if len(parts) != int(split[2]):
            raise DownloadError(f"{repo} has {len(parts)} of the {split[2]} parts of {model}; choose another --quant.")
    return parts, _pick(repo, projectors, mmproj_quant, MMPROJ_QUANTS) if projectors else None


def _pick(repo: str, names: Sequence[str], wanted: str, preferred: Sequence[str]) -> str:
    for quant in [wanted] if wanted else preferred:
        pattern = re.compile(rf"(?<![A-Za-z0-9]){re.escape(quant)}(?![A-Za-z0-9_])", re.IGNORECASE)
        for name in names:
            if pattern.search(Path(name).name):
                return name
    if wanted:
        raise DownloadError(f"{repo} has nothing in {wanted}. It has: {', '.join(names)}.")
    return names[0]


def memory_warning(size: int, meminfo: Path = Path("/proc/meminfo")) -> str:
    """Return a warning for a model of ``size`` bytes that is larger than the free memory, "" for a smaller one."""
    try:
        found = re.search(r"^MemAvailable: +(\d+) kB$", meminfo.read_text(), re.MULTILINE)
    except OSError:
        return ""
    free = 1024 * int(found[1]) if found else size
    if size <= free:
        return ""
    return (
        f"This model takes {_gigabytes(size)} of memory and some for its context; {_gigabytes(free)} are available on "
        "this machine now. Here it would run slowly or be killed: choose a smaller model or --quant."
    )


def _check_room(repo: str, files: Sequence[RepoSibling], directory: Path | None) -> None:
    """Raise :class:`DownloadError` unless the disk has room for what is missing of ``files``."""
    places = [_place(repo, file, directory) for file in files]
    missing = sum(max(0, (file.size or 0) - _present(place)) for file, place in zip(files, places, strict=True))
    folder = places[0].parent
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < missing:
        raise DownloadError(
            f"{repo} needs {_gigabytes(missing)} more in {folder}, which has {_gigabytes(free)} free. Free some, or "
            "choose another place with --dir or HF_HOME."
        )


def _place(repo: str, file: RepoSibling, directory: Path | None) -> Path:
    """Return where a file is put; the cache names large ones by their checksum, and links to them."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    if directory is not None:
        return directory / repo / Path(file.rfilename).name
    blobs = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type="model") / "blobs"
    return blobs / (file.lfs["sha256"] if file.lfs else Path(file.rfilename).name)


def _partial(place: Path) -> Path:
    return place.with_name(place.name + ".incomplete")


def _present(place: Path) -> int:
    """Return how many bytes of a file were downloaded before."""
    return next((path.stat().st_size for path in (place, _partial(place)) if path.exists()), 0)


def _fetch(repo: str, file: RepoSibling, commit: str, directory: Path | None) -> Path:
    """Download and check one file; return its path."""
    from huggingface_hub import hf_hub_download

    sha256: str = file.lfs["sha256"] if file.lfs else ""
    place = _place(repo, file, directory)
    if directory is not None:
        if not (place.exists() and place.stat().st_size == file.size and (not sha256 or _sha256(place) == sha256)):
            _fetch_to(place, repo, file, commit, sha256)
        return place
    if sha256 and not place.exists():
        # The library only links to a file that exists. Its own download would neither check it nor resume one of an
        # earlier run.
        _fetch_to(place, repo, file, commit, sha256)
    return Path(hf_hub_download(repo, file.rfilename, revision=commit))


def _fetch_to(place: Path, repo: str, file: RepoSibling, commit: str, sha256: str) -> None:
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils._headers import build_hf_headers

    place.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial(place)
    with partial.open("ab") as output:
        try:
            fcntl.flock(output, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DownloadError(f"Another process is downloading {file.rfilename}; wait for it.") from error
        size = file.size or 0
        have = output.tell()
        if have > size:
            have = 0
            output.truncate(0)
        if have < size:
            url = hf_hub_url(repo, file.rfilename, revision=commit)
            arguments: dict[str, Any] = {"resume_size": have, "expected_size": size, "headers": build_hf_headers()}
            http_get(url, output, displayed_filename=file.rfilename, **arguments)
        output.flush()
        if sha256 and (found := _sha256(partial)) != sha256:
            partial.unlink()
            raise DownloadError(
                f"{file.rfilename} arrived damaged: its SHA-256 is {found[:12]}..., not {sha256[:12]}.... It was "
                "deleted; run the same command again. If that does not help, suspect a proxy or the disk."
            )
        partial.replace(place)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB"


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".")
