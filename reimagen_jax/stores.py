"""Buckets: `gs://BUCKET/NAME` of Google Cloud Storage, `s3://BUCKET/NAME` of Amazon S3 and of what speaks like it.

A bucket has no folders, no renames and no locks; what it has is that an object appears whole or not at all. So a small
file is written at once, and what is made of many objects ends with an object more, `COMMIT`: without it, it is not
there for any reader. It is the name and the rule that Orbax has for gs://.

Paths are etils' `epath.Path`, which gcsfs and s3fs stand behind: both try again by themselves what fails in passing.
"""

import importlib.util
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, TypeVar

from reimagen_jax import paths
from reimagen_jax.errors import UserError, require

T = TypeVar("T")

COMMIT = "commit_success.txt"
"""Written last of all."""
_THREADS = 8
_BLOCK = 1 << 22


@dataclass(frozen=True)
class Kind:
    """A kind of bucket: what it is called, what reads it, the extra that installs that, what lets one in."""

    called: str
    module: str
    extra: str
    access: str
    orbax: bool
    """Whether Orbax reads and writes it by its own means, every host its part."""


KINDS: Mapping[str, Kind] = {
    "gs": Kind("Google Cloud Storage", "gcsfs", "gcs", "`gcloud auth application-default login`", True),
    "s3": Kind("S3", "s3fs", "s3", "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or `aws configure`", False),
}


def kind(path: str | os.PathLike[str]) -> Kind | None:
    """The kind of bucket that a path is in; None for a path of this machine, and for other addresses."""
    found = paths.BUCKET.fullmatch(os.fspath(path))
    return KINDS[found["kind"]] if found else None


def place(path: str | os.PathLike[str]) -> Any:
    """The path, of this machine or of a bucket. Raises `UserError` for other addresses, and without what reads it.

    `Path` makes `gs:/bucket/run` of `gs://bucket/run`: both are understood.
    """
    found = paths.BUCKET.fullmatch(os.fspath(path))
    if found is None:
        return paths.local(path)
    of = KINDS[found["kind"]]
    address = f"{found['kind']}://{found['bucket']}{(found['name'] or '').rstrip('/')}"
    require(
        importlib.util.find_spec(of.module) is not None,
        f"{address} is in a bucket of {of.called}, which takes {of.module}: pip install 'reimagen_jax[{of.extra}]'",
    )
    os.environ.setdefault("EPATH_USE_TF", "false")  # else etils asks TensorFlow where that happens to be installed
    import fsspec
    from etils import epath

    for name in ("gs", "gcs", "s3"):  # what is listed has to be what is there: others write there too
        fsspec.config.conf.setdefault(name, {}).setdefault("use_listings_cache", False)
    return epath.Path(address)


@contextmanager
def told(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turns what a bucket's library raises into one line that names `path`; nothing of a path of this machine."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # of the network, of credentials, of the service: each library has its own
        of = kind(path)
        if of is None:
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise UserError(
            f"{os.fspath(path)} cannot be reached ({type(error).__name__}: {reason}): check the bucket's name and your "
            f"rights in it ({of.access}), then run the same command again"
        ) from error


def whole(path: PurePath) -> bool:
    """Whether what `upload` writes there is all there."""
    return (path / COMMIT).exists()


def upload(folder: str | os.PathLike[str], target: PurePath) -> None:
    """Copies a folder into a bucket; it is there for readers when all of it is. What was there before goes first.

    Raises `OSError` where the bucket has not kept what it took.
    """
    remove(target)
    sizes = {
        file.relative_to(folder).as_posix(): file.stat().st_size for file in Path(folder).rglob("*") if file.is_file()
    }
    _each(lambda name: copy(Path(folder, name), target / name), sizes)
    if _sizes(target) != sizes:
        raise OSError(f"what is in {target} is not what was copied there")
    (target / COMMIT).write_text(f"{len(sizes)} files\n")


def remove(target: PurePath) -> None:
    """Removes what `upload` has written, or has begun to; from the first moment on, no reader finds it."""
    (target / COMMIT).unlink(missing_ok=True)
    if target.exists():
        target.rmtree()


def fetch(source: PurePath, folder: PurePath) -> None:
    """Copies what lies under `source` in a bucket into a folder."""
    _each(lambda name: copy(source / name, folder / name), [name for name in _sizes(source) if name != COMMIT])


def _sizes(place: PurePath) -> dict[str, int]:
    """The objects under a place of a bucket: relative name -> bytes."""
    from fsspec.core import url_to_fs

    system, root = url_to_fs(os.fspath(place))
    return {name.removeprefix(f"{root}/"): said["size"] for name, said in system.find(root, detail=True).items()}


def make(folder: PurePath) -> None:
    """Makes a folder of this machine; in a bucket there are none, and s3fs would make the bucket."""
    if kind(folder) is None:
        os.makedirs(folder, exist_ok=True)


def copy(source: PurePath, target: PurePath) -> None:
    """Copies a file from a bucket or into one; there, it appears when it is whole."""
    make(target.parent)
    with source.open("rb") as reader, target.open("wb") as writer:
        shutil.copyfileobj(reader, writer, _BLOCK)


def _each(act: Callable[[T], None], items: Iterable[T]) -> None:
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(act, items))
