"""Object stores on loopback, for tests: an S3 server (moto) and an emulator of Google Cloud Storage, with one bucket each."""

import contextlib
import importlib.util
import os
import socket
import subprocess
import sys
import time

from mmrep import catalogue

NEEDED = {"s3": ("s3fs", "moto", "flask"), "gs": ("gcsfs", "gcp_storage_emulator")}
BUCKET = "bucket"
GCS = """
import sys
from gcp_storage_emulator.__main__ import main
main(["start", "--host", "127.0.0.1", "--port", sys.argv[1], "--in-memory", "--default-bucket", "bucket"])
"""


def absent(scheme):
    """Why there is no store of this kind here, in one sentence; empty where there is."""
    missing = [name for name in NEEDED[scheme] if importlib.util.find_spec(name) is None]
    return f"{', '.join(missing)} not installed: pip install -r requirements-storage.txt" if missing else ""


def environment(scheme, port):
    """What the clients of this process and of others need to reach the server; nothing beyond loopback is called."""
    address = f"http://127.0.0.1:{port}"
    if scheme == "s3":
        return {
            "AWS_ENDPOINT_URL": address, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
        }  # fmt: skip
    return {
        "STORAGE_EMULATOR_HOST": address, "FSSPEC_GS_TOKEN": "anon", "FSSPEC_GCS_TOKEN": "anon",
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
    }  # fmt: skip


def for_processes():
    """The environment of a process that trains in the bucket: this one's, one device, and the modules of the tests."""
    kept = {k: v for k, v in os.environ.items() if k != "JAX_NUM_CPU_DEVICES"}
    here = os.pathsep.join([str(catalogue.ROOT), str(catalogue.ROOT / "tests")])
    return kept | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1", "PYTHONPATH": here}


@contextlib.contextmanager
def serving(scheme):
    """Runs the server in a process of its own and yields its port; the bucket is there."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = str(s.getsockname()[1])
    s3 = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", port]
    command = s3 if scheme == "s3" else [sys.executable, "-c", GCS, port]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", int(port)), 1):
                break
            assert server.poll() is None, "the server ended"
            time.sleep(0.1)
        yield int(port)
    finally:
        server.terminate()
        server.wait(20)


@contextlib.contextmanager
def bucket(scheme):
    """The URL of a bucket, with this process's environment set for it."""
    with serving(scheme) as port:
        before = dict(os.environ)
        os.environ.update(environment(scheme, port))
        try:
            import fsspec

            if scheme == "gs":
                # fsspec takes its settings from the environment when it is imported.
                fsspec.config.conf.setdefault("gs", {})["token"] = "anon"
                fsspec.config.conf.setdefault("gcs", {})["token"] = "anon"
            store = fsspec.filesystem(scheme, use_listings_cache=False)
            if scheme == "s3":
                store.mkdir(f"s3://{BUCKET}")
            yield f"{scheme}://{BUCKET}"
        finally:
            os.environ.clear()
            os.environ.update(before)
