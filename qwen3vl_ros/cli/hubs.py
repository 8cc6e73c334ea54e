"""Where models come from, Hugging Face or ModelScope: a repository's files, fetching them, what is kept of them."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

EXAMPLE = "Qwen/Qwen3-VL-2B-Instruct-GGUF"


class DownloadError(Exception):
    """A model could not be downloaded; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a repository. ``size`` is in bytes; ``sha256`` is "" where the repository publishes none."""

    name: str
    size: int
    sha256: str


class Hub(ABC):
    """A site with repositories of models. Errors are :class:`DownloadError`."""

    name: str
    cache_variable: str
    """Environment variable that says where downloads are kept."""

    @abstractmethod
    def list_files(self, repo: str, revision: str = "") -> tuple[str, list[RemoteFile]]:
        """Return the commit that ``revision`` means, "" = the newest, and its files."""

    @abstractmethod
    def place(self, repo: str, file: RemoteFile, directory: Path | None) -> Path:
        """Return where a file is put: into the hub's cache, or into ``directory``/OWNER/NAME."""

    @abstractmethod
    def fetch(self, repo: str, file: RemoteFile, commit: str, directory: Path | None) -> Path:
        """Download one file, unless it is there, and check it; return its path, by its own name."""

    @abstractmethod
    def cached(self, repo: str) -> list[Path]:
        """Return the files of ``repo`` that are completely in the cache, by their own names."""

    @abstractmethod
    def remove(self, repo: str) -> None:
        """Delete all of ``repo`` from the cache, also what was not completed."""

    @property
    @abstractmethod
    def cache(self) -> Path:
        """Where downloads are kept."""

    def present(self, repo: str, file: RemoteFile, directory: Path | None) -> int:
        """Return how many bytes of a file were downloaded before."""
        place = self.place(repo, file, directory)
        return next((path.stat().st_size for path in (place, _partial(place)) if path.exists()), 0)


class HuggingFace(Hub):
    """huggingface.co, or the mirror that HF_ENDPOINT names."""

    name = "huggingface"
    cache_variable = "HF_HOME"

    def list_files(self, repo: str, revision: str = "") -> tuple[str, list[RemoteFile]]:
        """See :class:`Hub`."""
        from huggingface_hub import HfApi

        with _explained(repo, revision):
            info = HfApi().model_info(repo, revision=revision or "main", files_metadata=True)
            siblings = info.siblings or []
        files = [RemoteFile(it.rfilename, it.size or 0, it.lfs["sha256"] if it.lfs else "") for it in siblings]
        return info.sha or revision or "main", files

    def place(self, repo: str, file: RemoteFile, directory: Path | None) -> Path:
        """See :class:`Hub`; the cache names large files by their checksum, and links to them."""
        if directory is not None:
            return directory / repo / Path(file.name).name
        return self._folder(repo) / "blobs" / (file.sha256 or Path(file.name).name)

    def fetch(self, repo: str, file: RemoteFile, commit: str, directory: Path | None) -> Path:
        """See :class:`Hub`."""
        from huggingface_hub import hf_hub_download

        place = self.place(repo, file, directory)
        with _explained(repo, commit):
            if directory is not None:
                if not _complete(place, file):
                    self._fetch_to(place, repo, file, commit)
                return place
            if file.sha256 and not place.exists():
                # The library only links to a file that exists. Its own download would neither check it nor resume one
                # of an earlier run.
                self._fetch_to(place, repo, file, commit)
            return Path(hf_hub_download(repo, file.name, revision=commit))

    def cached(self, repo: str) -> list[Path]:
        """See :class:`Hub`; of the snapshots, the newest that has a file has it."""
        snapshots = sorted(self._folder(repo).glob("snapshots/*"), key=lambda folder: folder.stat().st_mtime)
        found = {file.name: file for snapshot in snapshots for file in snapshot.iterdir() if file.is_file()}
        return sorted(found.values())

    def remove(self, repo: str) -> None:
        """See :class:`Hub`."""
        with _explained(repo, ""):
            shutil.rmtree(self._folder(repo))

    @property
    def cache(self) -> Path:
        """See :class:`Hub`."""
        from huggingface_hub import constants

        return Path(constants.HF_HUB_CACHE)

    def _folder(self, repo: str) -> Path:
        from huggingface_hub.file_download import repo_folder_name

        return self.cache / repo_folder_name(repo_id=repo, repo_type="model")

    @staticmethod
    def _fetch_to(place: Path, repo: str, file: RemoteFile, commit: str) -> None:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.file_download import http_get
        from huggingface_hub.utils._headers import build_hf_headers

        place.parent.mkdir(parents=True, exist_ok=True)
        partial = _partial(place)
        with partial.open("ab") as output:
            try:
                fcntl.flock(output, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise DownloadError(f"Another process is downloading {file.name}; wait for it.") from error
            have = output.tell()
            if have > file.size:
                have = 0
                output.truncate(0)
            if have < file.size:
                url = hf_hub_url(repo, file.name, revision=commit)
                arguments: dict[str, Any] = {
                    "resume_size": have,
                    "expected_size": file.size,
                    "headers": build_hf_headers(),
                }
                http_get(url, output, displayed_filename=file.name, **arguments)
            output.flush()
            if file.sha256 and (found := _sha256(partial)) != file.sha256:
                partial.unlink()
                raise damaged(file, found)
            partial.replace(place)


class ModelScope(Hub):
    """modelscope.cn, with the package modelscope-hub. It resumes and compares checksums itself."""

    name = "modelscope"
    cache_variable = "MODELSCOPE_CACHE"

    def list_files(self, repo: str, revision: str = "") -> tuple[str, list[RemoteFile]]:
        """See :class:`Hub`."""
        with self._explained(repo):
            listed = self._api().list_repo_files(repo, "model", revision=revision or None)
        files = [RemoteFile(it.path, it.size, it.sha256 or "") for it in listed if not it.is_dir]
        return revision or "master", files

    def place(self, repo: str, file: RemoteFile, directory: Path | None) -> Path:
        """See :class:`Hub`."""
        return (self._folder(repo) if directory is None else directory / repo) / Path(file.name).name

    def fetch(self, repo: str, file: RemoteFile, commit: str, directory: Path | None) -> Path:
        """See :class:`Hub`."""
        folder = self.place(repo, file, directory).parent
        with self._explained(repo, file):
            return Path(
                self._api().download_file(
                    repo, "model", file.name, revision=commit, local_dir=folder,
                    expected_sha256=file.sha256 or None, file_size=file.size or None,
                )
            )  # fmt: skip

    def cached(self, repo: str) -> list[Path]:
        """See :class:`Hub`."""
        folder = self._folder(repo)
        if not folder.is_dir():
            return []
        return sorted(file for file in folder.iterdir() if file.is_file() and _is_finished(file))

    def remove(self, repo: str) -> None:
        """See :class:`Hub`."""
        with self._explained(repo):
            shutil.rmtree(self._folder(repo))

    @property
    def cache(self) -> Path:
        """See :class:`Hub`."""
        return Path(os.environ.get(self.cache_variable) or Path.home() / ".cache" / "modelscope")

    def _folder(self, repo: str) -> Path:
        owner, _, name = repo.partition("/")
        return self.cache / "models" / owner / name.replace(".", "___")  # as ModelScope's own tools have it

    @staticmethod
    def _api() -> Any:
        try:
            from modelscope_hub import HubApi
        except ImportError as error:
            raise DownloadError(
                "Downloads from ModelScope need its library: `pip install modelscope-hub`, then try again."
            ) from error
        return HubApi()

    @contextlib.contextmanager
    def _explained(self, repo: str, file: RemoteFile | None = None) -> Iterator[None]:
        try:
            yield
        except DownloadError:
            raise
        except Exception as error:
            kinds = {kind.__name__ for kind in type(error).__mro__}
            if "NotExistError" in kinds:
                raise DownloadError(
                    f"ModelScope has no repository {repo}; leave --from out for Hugging Face."
                ) from error
            if "FileIntegrityError" in kinds and file is not None:
                raise damaged(file) from error
            if "HubError" in kinds or isinstance(error, OSError):
                raise stopped(repo, error, "MODELSCOPE_ENDPOINT") from error
            raise


HUBS: dict[str, Hub] = {hub.name: hub for hub in (HuggingFace(), ModelScope())}


@contextlib.contextmanager
def _explained(repo: str, revision: str) -> Iterator[None]:
    """Turn what Hugging Face's library raises into sentences."""
    from huggingface_hub import errors

    # The base class is that of requests, httpx or httpx2, by the library's version; it includes failed connections.
    http_error = cast("type[Exception]", errors.HfHubHTTPError.__bases__[0])
    try:
        yield
    except errors.HFValidationError as error:
        raise DownloadError(f"{repo!r} is no repository name; write OWNER/NAME, as in {EXAMPLE}.") from error
    except errors.GatedRepoError as error:
        raise DownloadError(
            f"{repo} asks for a login: accept its terms on its page, then run `hf auth login` and try again."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise DownloadError(
            f"There is no repository {repo} (or it is private: `hf auth login`). Try {EXAMPLE}."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise DownloadError(f"{repo} has no revision {revision}; leave --revision out for the newest.") from error
    except errors.OfflineModeIsEnabled as error:
        raise DownloadError("HF_HUB_OFFLINE is set; unset it to download.") from error
    except (http_error, OSError) as error:
        raise stopped(repo, error, "HF_ENDPOINT") from error


def stopped(repo: str, error: BaseException, endpoint: str) -> DownloadError:
    """Return the error for a connection that broke; ``endpoint`` is the variable that names a mirror."""
    text = str(error).strip() or type(error).__name__
    return DownloadError(
        f"The download of {repo} stopped: {text.splitlines()[0].rstrip('.')}. Run the same command again: it goes on "
        f"where it stopped. Behind a mirror, set {endpoint}; behind a proxy, HTTPS_PROXY."
    )


def damaged(file: RemoteFile, found: str = "") -> DownloadError:
    """Return the error for a file that arrived with the SHA-256 ``found``, "" = not known."""
    what = f"its SHA-256 is {found[:12]}..., not {file.sha256[:12]}..." if found else "its SHA-256 is wrong"
    return DownloadError(
        f"{file.name} arrived damaged: {what}. It was deleted; run the same command again. If that does not help, "
        "suspect a proxy or the disk."
    )


def _partial(place: Path) -> Path:
    return place.with_name(place.name + ".incomplete")


def _is_finished(file: Path) -> bool:
    return not file.name.startswith(".") and file.suffix not in (".incomplete", ".parallel_tmp")


def _complete(place: Path, file: RemoteFile) -> bool:
    return place.exists() and place.stat().st_size == file.size and (not file.sha256 or _sha256(place) == file.sha256)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
