"""Buckets without a network: emulators of Google Cloud Storage and of S3, each in a process of its own.

`python -m tests.emulators gs|s3` prints the port it listens at, and serves until its standard input ends.
"""

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from etils.epath.backend import fsspec_backend
from fsspec import get_filesystem_class

BUCKET, KINDS = "bucket", ["gs", "s3"]


def settings(kind: str, port: int) -> Mapping[str, str]:
    """The environment in which programs find the emulator, and no one's credentials."""
    url = f"http://127.0.0.1:{port}"
    if kind == "gs":
        return {
            "STORAGE_EMULATOR_HOST": url,
            "TENSORSTORE_GCS_HTTP_URL": url,
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # another service's question, which the emulator lacks
            "GOOGLE_CLOUD_PROJECT": "project",
            "NO_GCE_CHECK": "true",
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "token",
        }
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }


@contextmanager
def emulator(kind: str) -> Iterator[Mapping[str, str]]:
    """A bucket of this kind, empty; yields the environment that leads there."""
    command = [sys.executable, "-m", "tests.emulators", kind]
    server = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    get_filesystem_class(kind).clear_instance_cache()  # those of an emulator that has ended
    type(fsspec_backend)._get_filesystem.cache_clear()
    try:
        yield settings(kind, int(server.stdout.readline()))
    finally:
        server.stdin.close()
        server.wait(timeout=30)


@contextmanager
def reached(kind: str, spool: Path) -> Iterator[str]:
    """The address of an empty bucket, which this process and those that it starts reach; `spool` is an empty folder."""
    with emulator(kind) as environment, pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        # Another run of these tests on this machine copies its checkpoints elsewhere.
        patch.setenv("TMPDIR", str(spool))
        patch.setattr(tempfile, "tempdir", None)
        yield f"{kind}://{BUCKET}"


def _telling_generations(download: Callable[..., None]) -> Callable[..., None]:
    """What answers a download, with the header by which the service, but not the emulator, tells an object's version.

    tensorstore needs it to write anew what it has read.
    """

    def answer(request: Any, response: Any, storage: Any) -> None:
        download(request, response, storage)
        if response.status < 300:
            said = storage.get_file_obj(request.params["bucket_name"], request.params["object_id"])
            response["x-goog-generation"] = said["generation"]

    return answer


def _serve(kind: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    if kind == "gs":
        from gcp_storage_emulator.handlers import objects
        from gcp_storage_emulator.server import create_server

        objects.download = _telling_generations(objects.download)
        server = create_server("127.0.0.1", port, in_memory=True, default_bucket=BUCKET)
        server.start()
    else:
        import boto3
        from moto.server import ThreadedMotoServer

        server = ThreadedMotoServer(ip_address="127.0.0.1", port=port)
        server.start()
        os.environ.update(settings(kind, port))
        boto3.client("s3").create_bucket(Bucket=BUCKET)
    print(port, file=sys.__stdout__, flush=True)
    sys.stdin.read()
    server.stop()


if __name__ == "__main__":
    with redirect_stdout(sys.stderr):  # moto talks
        _serve(sys.argv[1])
