"""Repositories of the Hugging Face Hub: files fetched into the Hub's cache and checked, and files uploaded."""

import hashlib
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from pathlib import Path, PurePosixPath
from typing import Literal, TypeVar

from huggingface_hub import CommitOperationAdd, HfApi, constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import REGEX_COMMIT_HASH, repo_folder_name, try_to_load_from_cache
from huggingface_hub.utils import (
    WeakFileLock,
    build_hf_headers,
    get_session,
    hf_raise_for_status,
    validate_repo_id,
)

from tinyworlds.progress import Transfer

Kind = Literal["model", "dataset"]
T = TypeVar("T")

SECONDS = 10
"""How long the Hub may take to answer a question, once it was found, before it counts as out of reach."""
DEADLINE = 15.0
"""Seconds until it does so in any case."""
NOT_NOW = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)
PATIENCE = 15.0
"""Seconds without a byte after which a download is given up."""
SECONDS_BETWEEN_TRIES = 1.0
LOGIN = "log in with `hf auth login` or set HF_TOKEN"


def fetch(repo: str, file: str, *, kind: Kind, place: str, revision: str | None = None) -> Path:
    """The repository's `file` in the Hub's cache (HF_HOME), downloaded unless it is there, and checked.

    An interrupted download is gone on with by the next call. What is returned has the hash that the Hub gives for
    it (SHA-256 of large files, git's SHA-1 of small ones). Where the Hub cannot be reached, a file that is in the
    cache serves. `place` says in errors where the file may be placed by hand.

    Raises:
        FileNotFoundError: it cannot be had.
        ValueError: its content is not what the Hub promised, or `repo` is no name of a repository.
    """
    check_repo(repo)
    if file.startswith("/") or "\\" in file or ".." in PurePosixPath(file).parts:
        raise ValueError(f"{page(repo, kind)} names a file {file!r}, which is outside of it")
    cached = try_to_load_from_cache(repo, file, repo_type=kind, revision=revision)
    found, etag = (Path(cached) if isinstance(cached, str) else None), ""
    if found is None or not REGEX_COMMIT_HASH.fullmatch(revision or ""):  # a commit does not change
        url = hf_hub_url(repo, file, repo_type=kind, revision=revision)
        try:
            found, etag = _newest(url, repo, file, kind=kind, revision=revision)
        except DamagedError:
            raise
        except Exception as error:
            refused = _is_refusal(error)
            if refused or found is None:
                by_hand = "" if refused else f"; or get it from {url} and place it {place}"
                reason = _reason(error, repo, kind)
                raise FileNotFoundError(f"{file} of {repo} could not be downloaded: {reason}{by_hand}") from error
    _check(found, etag=found.readlink().name if found.is_symlink() else etag, name=f"{file} of {repo}, cached")
    return found


def _newest(url: str, repo: str, file: str, *, kind: Kind, revision: str | None) -> tuple[Path, str]:
    """The newest version of a file of the Hub, in its cache, and the hash that the Hub gives for it."""
    promised = _in_time(lambda: get_hf_file_metadata(url, timeout=min(constants.HF_HUB_ETAG_TIMEOUT, SECONDS)))
    if promised.etag is None or not re.fullmatch(r"[\w-]{1,128}", promised.etag):
        raise ValueError(f"{url} does not say which version it is")
    if not REGEX_COMMIT_HASH.fullmatch(promised.commit_hash or ""):
        raise ValueError(f"{url} does not say which commit it is at")
    blob = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=repo, repo_type=kind), "blobs", promised.etag)
    if not blob.exists():
        pinned = hf_hub_url(repo, file, repo_type=kind, revision=promised.commit_hash)
        _download(pinned, file, blob, size=promised.size)
    # The client finds the content there and does the rest.
    return Path(hf_hub_download(repo, file, repo_type=kind, revision=revision)), promised.etag


class DamagedError(ValueError):
    """A file whose content is not what the Hub promised."""


def files(repo: str, *, kind: Kind, place: str) -> tuple[str, list[str]]:
    """The newest commit of a repository, and the paths of its files; `place` is as in `fetch`.

    Raises:
        FileNotFoundError: the Hub does not say.
        ValueError: `repo` is no name of a repository.
    """
    check_repo(repo)
    try:
        info = _in_time(lambda: HfApi().repo_info(repo, repo_type=kind, timeout=SECONDS))
    except Exception as error:
        reason = _reason(error, repo, kind)
        by_hand = (
            "" if _is_refusal(error) else f"; or get them from {page(repo, kind)}/tree/main and place them {place}"
        )
        raise FileNotFoundError(f"the files of {repo} could not be listed: {reason}{by_hand}") from error
    if not REGEX_COMMIT_HASH.fullmatch(str(info.sha)):
        raise ValueError(f"{page(repo, kind)} does not say which commit it is at")
    return str(info.sha), [sibling.rfilename for sibling in getattr(info, "siblings", None) or []]


def upload(repo: str, content: Mapping[str, Path | bytes], *, kind: Kind, private: bool, message: str) -> str:
    """Commit files, by their path in the repository, which is made where it is missing; returns its address.

    Raises:
        ValueError: the Hub does not take them, or the repository is public and a `private` one is asked for.
    """
    check_repo(repo)
    api = HfApi()
    try:
        existing = _private(api, repo, kind)
        if private and existing is False:
            raise ValueError(f"{repo} is public already: make it private on {page(repo, kind)}/settings")
        if existing is None:
            api.create_repo(repo, repo_type=kind, private=private, exist_ok=True)
        size = sum(len(c) if isinstance(c, bytes) else c.stat().st_size for c in content.values())
        print(f"uploading {len(content)} files, {size / 1e6:.1f} MB, to {page(repo, kind)}", flush=True)
        additions = [CommitOperationAdd(path_in_repo=path, path_or_fileobj=c) for path, c in content.items()]
        api.create_commit(repo, additions, commit_message=message, repo_type=kind)
    except Exception as error:
        raise ValueError(f"{repo} could not be uploaded: {_reason(error, repo, kind)}") from error
    return page(repo, kind)


def page(repo: str, kind: Kind) -> str:
    """The address of a repository's page."""
    return f"{constants.ENDPOINT}/{constants.REPO_TYPES_URL_PREFIXES.get(kind, '')}{repo}"


def check_repo(repo: str) -> None:
    """Refuse what is no name of a repository.

    Raises:
        ValueError: it is not of the form user/name.
    """
    try:
        validate_repo_id(repo)
        well_formed = repo.count("/") == 1
    except ValueError:
        well_formed = False
    if not well_formed:
        raise ValueError(f"{repo!r} is no repository of the Hub: give user/name")


def _private(api: HfApi, repo: str, kind: Kind) -> bool | None:
    """Whether a repository is private; None where there is none to be seen."""
    try:
        return bool(_in_time(lambda: api.repo_info(repo, repo_type=kind, timeout=SECONDS)).private)
    except HfHubHTTPError as error:
        if error.response.status_code in (401, 404):
            return None
        raise


def _in_time(ask: Callable[[], T]) -> T:
    """What `ask` returns or raises, within `DEADLINE`.

    The client's own timeout is of each address of a host, of which there are many, and not of looking them up.
    """
    answers: list[T] = []
    errors: list[Exception] = []

    def keep() -> None:
        try:
            answers.append(ask())
        except Exception as error:
            errors.append(error)

    asking = threading.Thread(target=keep, daemon=True)
    asking.start()
    asking.join(DEADLINE)
    if errors:
        raise errors[0]
    if not answers:
        raise TimeoutError(f"no answer within {DEADLINE:g} s")
    return answers[0]


def _download(url: str, file: str, blob: Path, *, size: int | None) -> None:
    """Download to a file beside `blob`, from where an earlier download stopped, and move it there once checked.

    The client's own download begins anew in each process, and keeps nothing of its last ten megabytes.
    """
    lock = Path(constants.HF_HUB_CACHE, ".locks", blob.parent.parent.name, f"{blob.name}.lock")
    part = blob.with_name(f"{blob.name}.incomplete")
    for path in (lock, part):
        path.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(lock):
        if blob.exists():
            return
        part.touch()
        with Transfer(total=size, initial=part.stat().st_size, label=f"downloading {file}") as progress:
            last = time.monotonic()
            while size is None or part.stat().st_size < size:
                try:
                    for count in _continue(url, part, at_most=size):
                        progress.update(count)
                        last = time.monotonic()
                    break
                except Exception as error:
                    if _is_refusal(error) or time.monotonic() - last > PATIENCE:
                        raise
                    time.sleep(SECONDS_BETWEEN_TRIES)
        _check(part, etag=blob.name, size=size, name=file)
        part.replace(blob)


def _continue(url: str, part: Path, *, at_most: int | None) -> Iterator[int]:
    """Append to `part` what it lacks, as it comes: the number of bytes each time. Ends once it is too long."""
    done = part.stat().st_size
    headers = build_hf_headers() | {"Accept-Encoding": "identity"}
    if done:
        headers["Range"] = f"bytes={done}-"
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    with get_session().stream("GET", url, headers=headers, timeout=timeout) as response, part.open("ab") as file:
        if done and response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # there is no more than what is here
        hf_raise_for_status(response)
        if response.status_code != HTTPStatus.PARTIAL_CONTENT:
            file.truncate(0)
            yield -done
            done = 0
        for chunk in response.iter_bytes():
            yield file.write(chunk)
            done += len(chunk)
            if at_most is not None and done > at_most:
                return


def _check(path: Path, *, etag: str, name: str, size: int | None = None) -> None:
    """Remove a file that is not what the Hub promised, and refuse it: `etag` is the hash of its content."""
    actual = path.stat().st_size
    if size is not None and actual != size:
        wrong = f"it has {actual} bytes, the Hub promised {size}"
    elif (given := _hash(path, like=etag)) != etag:
        wrong = f"its hash is {given}, the Hub promised {etag}"
    else:
        return
    path.resolve().unlink()
    raise DamagedError(f"{name}, is damaged and was removed: {wrong}; download it again")


def _hash(path: Path, *, like: str) -> str:
    """The hash of a file of the kind that `like` is; `like` itself where that is none of the Hub's."""
    git = hashlib.sha1(b"blob %d\0" % path.stat().st_size)
    kinds = {64: hashlib.sha256, 40: lambda: git}
    if not re.fullmatch(r"[0-9a-f]+", like) or len(like) not in kinds:
        return like
    with path.open("rb") as file:
        return hashlib.file_digest(file, kinds[len(like)]).hexdigest()


def _is_refusal(error: Exception) -> bool:
    """Whether the Hub answered, and the answer is no."""
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else HTTPStatus.INTERNAL_SERVER_ERROR
    return status < HTTPStatus.INTERNAL_SERVER_ERROR and status not in NOT_NOW


def _reason(error: Exception, repo: str, kind: Kind) -> str:
    """Why something failed, in half a sentence."""
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if isinstance(error, GatedRepoError):
        return f"access must be asked for on {page(repo, kind)}; then {LOGIN}"
    if isinstance(error, RevisionNotFoundError):
        return "there is no such revision"
    if isinstance(error, RemoteEntryNotFoundError):
        return "there is no such file in it"
    if isinstance(error, RepositoryNotFoundError) or status == 401:
        return f"there is no {kind} {repo}, or it takes a login: {LOGIN}"
    if status == 403:
        return "your token does not allow it"
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set"
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}" if not isinstance(error, ValueError) else first
