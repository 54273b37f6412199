"""`Hub`: Hugging Face's Hub, or a mirror of it: what a repository holds, and any stretch of a file's bytes.

The requests are huggingface-hub's own (its session, headers, token, endpoint and offline switch), but not its downloads:
as of 2.4 those write to a file of a random name that is deleted when they break off, over HTTP and over Xet alike, so a
cut at 90 % begins again at zero. Here a caller asks for bytes from one place to another and keeps count itself. Every
error of the libraries below ends at this border. huggingface-hub is imported when the first request is made, because
verbs that pull nothing must not wait for it.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any

from msgspec import Struct

from myllm.errors import DownloadFailed, Forbidden, HubUnreachable, ModelNotFound, MyLLMError

log = logging.getLogger(__name__)

HOME_PAGE = "https://huggingface.co"
LOOK_UP_TIMEOUT_S = 30
MAX_FILE_BYTES = 1 << 44  # 16 TiB; what claims more is no model
SHA256, GIT = "sha256", "git"
_CHECKSUM = re.compile(f"{SHA256}:[0-9a-f]{{64}}|{GIT}:[0-9a-f]{{40}}")
_COMMIT = re.compile("[0-9a-f]{40}")


class RemoteFile(Struct, frozen=True):
    """A file as the repository promises it. checksum: `sha256:…` of a large file, `git:…` of one that git itself holds."""

    path: str
    size: int
    checksum: str

    def hasher(self) -> Any:
        """What the checksum is made with; fed the whole content, its `hexdigest` is the checksum's second half."""
        if self.checksum.startswith(SHA256):
            return hashlib.sha256()
        return hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)

    def is_right(self, hasher: Any) -> bool:
        return bool(self.checksum.partition(":")[2] == hasher.hexdigest())


class Repository(Struct, frozen=True):
    """The GGUF files of one revision. name: `ORG/REPO`, as the Hub spells it; revision: a commit."""

    name: str
    revision: str
    files: tuple[RemoteFile, ...]


class RangesIgnored(Exception):
    """The server sends whole files only."""


class Hub:
    """The Hub at `endpoint`, by default `HF_ENDPOINT`'s."""

    def __init__(self, endpoint: str | None = None) -> None:
        self._endpoint = endpoint

    @property
    def endpoint(self) -> str:
        from huggingface_hub import constants

        return self._endpoint or constants.ENDPOINT

    def look_up(self, name: str) -> Repository:
        """The newest revision of a repository. Raises ModelNotFound, Forbidden, HubUnreachable."""
        from huggingface_hub import HfApi

        with self._translated(name):
            try:
                info = HfApi(endpoint=self.endpoint).model_info(name, files_metadata=True, timeout=LOOK_UP_TIMEOUT_S)
                listed = [_promised(sibling) for sibling in info.siblings or ()]
                revision = str(info.sha)
            except (ValueError, TypeError, KeyError, AttributeError) as exc:
                raise DownloadFailed(f"what answers at {self.endpoint} is no Hub ({exc}); check HF_ENDPOINT") from exc
        if not _COMMIT.fullmatch(revision):
            raise DownloadFailed(f"{self.endpoint} gives no commit for '{name}'; what answers there is no Hub; check HF_ENDPOINT")
        is_spelling = str(info.id).casefold() == name.casefold()  # anything else is not taken as the name of a folder
        return Repository(info.id if is_spelling else name, revision, tuple(file for file in listed if file is not None))

    def check_access(self, repository: Repository, file: RemoteFile) -> None:
        """Raises Forbidden where the listing may be read and the files may not, and DownloadFailed where the two disagree."""
        from huggingface_hub import get_hf_file_metadata

        with self._translated(repository.name):
            served = get_hf_file_metadata(self._url(repository, file), timeout=LOOK_UP_TIMEOUT_S)
        if served.size is not None and served.size != file.size:
            raise _wrong_size(repository, file, served.size)

    def read(self, repository: Repository, file: RemoteFile, start: int, end: int) -> Generator[bytes, None, None]:
        """Bytes [start, end) of a file as they arrive. Close it (or run it out) to give the connection back.

        Raises HubUnreachable where asking again for what is missing may help, RangesIgnored where only a whole file will
        be sent, and DownloadFailed for an answer that cannot be right.
        """
        from huggingface_hub import constants, get_session, hf_raise_for_status
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # public by its documentation

        headers = build_hf_headers() | {"Accept-Encoding": "identity"}
        if (start, end) != (0, file.size):
            headers["Range"] = f"bytes={start}-{end - 1}"
        url, left = self._url(repository, file), end - start
        with (
            self._translated(repository.name),
            get_session().stream("GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT) as response,
        ):
            hf_raise_for_status(response)
            _check_answer(response.status_code, response.headers, repository, file, start, left)
            for chunk in response.iter_raw():
                left -= len(chunk)
                if left < 0:
                    raise DownloadFailed(f"{self.endpoint} sends more of '{file.path}' than was asked for; try again later")
                yield chunk
        if left:
            raise HubUnreachable(f"{self.endpoint} broke off {left:,} bytes before the end of what was asked for")

    def _url(self, repository: Repository, file: RemoteFile) -> str:
        from huggingface_hub import hf_hub_url

        return hf_hub_url(repository.name, file.path, revision=repository.revision, endpoint=self.endpoint)

    @contextmanager
    def _translated(self, name: str) -> Iterator[None]:
        """The border where the libraries' errors become ours."""
        from huggingface_hub import errors

        try:
            yield
        except errors.OfflineModeIsEnabled as exc:
            raise HubUnreachable(f"'{name}' cannot be looked up: HF_HUB_OFFLINE is set; unset it to pull models") from exc
        except errors.HfHubHTTPError as exc:
            raise self._refusal(name, exc) from exc
        except errors.HTTPError as exc:  # type: ignore[attr-defined]  # the root of what its session raises, of whatever library that is
            reason = str(exc) or type(exc).__name__
            raise HubUnreachable(f"{self.endpoint} cannot be reached or broke off: {reason}; pull again to go on") from exc

    def _refusal(self, name: str, error: Any) -> MyLLMError:
        from huggingface_hub import errors, get_token

        status = error.response.status_code
        if isinstance(error, errors.GatedRepoError):
            token = (
                "the account of your token (HF_TOKEN) has not done so" if get_token() else "then put a token of your account in HF_TOKEN"
            )
            return Forbidden(f"'{name}' is gated: accept its terms at {HOME_PAGE}/{name}; {token}")
        if isinstance(error, errors.RepositoryNotFoundError):
            return ModelNotFound(f"{self.endpoint} has no repository '{name}'; if it is private, put a token in HF_TOKEN", param="name")
        if status == 404:
            return ModelNotFound(f"'{name}' lost a file at {self.endpoint} just now; pull again", param="name")
        if status in (401, 403):
            return Forbidden(f"{self.endpoint} refuses '{name}' with {status}: {error.server_message or 'no reason given'}; check HF_TOKEN")
        told = error.response.headers.get("retry-after", "")
        wait_s = int(told) if told.isdecimal() and len(told) < 6 else None
        return HubUnreachable(f"{self.endpoint} answers {status} for '{name}'; try again later", retry_after_s=wait_s)


def _promised(sibling: Any) -> RemoteFile | None:
    """A file of the listing, if it is a GGUF file whose path can be trusted and whose content can be checked."""
    path, lfs = str(sibling.rfilename), sibling.lfs
    checksum = f"{SHA256}:{lfs.sha256}" if lfs else f"{GIT}:{sibling.blob_id}"
    if not path.endswith(".gguf"):
        return None
    if not is_safe_path(path) or not _CHECKSUM.fullmatch(checksum) or not 0 < (sibling.size or 0) <= MAX_FILE_BYTES:
        log.warning("the file %r of a repository is left out: its path, its size or its checksum cannot be used", path)
        return None
    return RemoteFile(path, int(sibling.size), checksum)


def is_safe_path(path: str) -> bool:
    """May a repository's path be used below a folder of ours? No part of it hides, climbs, or is empty."""
    parts = path.split("/")
    tricks = any(not part or part.startswith(".") or len(part.encode(errors="replace")) > 200 for part in parts)
    return not tricks and len(parts) <= 8 and "\\" not in path and path.isprintable() and PurePosixPath(path).as_posix() == path


def _check_answer(status: int, headers: Mapping[str, str], repository: Repository, file: RemoteFile, start: int, asked: int) -> None:
    """Is this answer the stretch of this file? Raises RangesIgnored, DownloadFailed."""
    if headers.get("content-encoding", "identity") != "identity":
        raise DownloadFailed(f"'{file.path}' comes compressed, which was not asked for; a proxy on the way may do that")
    length = headers.get("content-length", "")
    if status == 206:
        place, _, total = headers.get("content-range", "").partition("/")
        if total.isdecimal() and int(total) != file.size:
            raise _wrong_size(repository, file, int(total))
        if place != f"bytes {start}-{start + asked - 1}":
            raise DownloadFailed(f"'{file.path}': bytes {start}-{start + asked - 1} were asked for, and {place or 'others'} came")
    elif length.isdecimal() and int(length) != file.size:
        raise _wrong_size(repository, file, int(length))
    elif asked != file.size:
        raise RangesIgnored


def _wrong_size(repository: Repository, file: RemoteFile, size: int) -> DownloadFailed:
    return DownloadFailed(
        f"'{file.path}' of {repository.name} has {size:,} bytes, and {file.size:,} were promised; nothing was installed; pull again later"
    )
