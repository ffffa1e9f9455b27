"""A private S3 server: SeaweedFS on the loopback interface, with its own folder and keys."""

import json
import os
import shutil
import signal
import subprocess
import urllib.error
from pathlib import Path

from .site import BenchmarkError, answers_at, empty, eventually, free_ports, http

BUCKET = "conversations"
ACCESS_KEY = "polyhook-bench"
SECRET_KEY = "a key that is as secret as this file"


class Seaweed:
    """A running server."""

    def __init__(self, ctx):
        self.folder = Path(ctx.work) / "seaweed"
        (self.folder / "data").mkdir(parents=True)
        identity = {
            "name": "bench",
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Admin", "Read", "List", "Tagging", "Write"],
        }
        (self.folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
        ports = free_ports(9)
        self.filer, self.filer_grpc, self.port, self.metrics = ports[4], ports[5], ports[6], ports[8]
        argv = [program(), "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3"]
        argv += ["-master.telemetry=false", "-s3.port.iceberg=0", "-s3.port.lance=0", "-volume.preStopSeconds=0"]
        # Room for eight recordings of 2 GiB.
        argv += ["-volume.max=64", "-master.volumeSizeLimitMB=1024", f"-metricsPort={self.metrics}"]
        for n, name in enumerate(("master", "volume", "filer", "s3")):
            argv += [f"-{name}.port={ports[2 * n]}", f"-{name}.port.grpc={ports[2 * n + 1]}"]
        paths = {"dir": "data", "s3.config": "s3.json", "filer.localSocket": "filer.sock", "s3.localSocket": "s3.sock"}
        argv += [f"-{name}={self.folder / path}" for name, path in paths.items()]
        # The filer keeps its database in the working directory.
        self.process = ctx.start("seaweed", ["sh", "-c", 'cd "$0" && exec "$@"', str(self.folder), *argv], {})
        eventually("SeaweedFS listens", lambda: answers_at(self.port) and answers_at(self.filer))
        eventually("SeaweedFS has a filer", self._answers)

    def _answers(self):
        try:
            http("GET", f"http://127.0.0.1:{self.filer}/buckets/?limit=1")
            return True
        except urllib.error.HTTPError as error:
            return error.code == 404
        except OSError:
            return False

    def archive(self, prefix):
        """Returns the section `[archive]` for this server."""
        return {
            "url": f"s3://{BUCKET}/{prefix}",
            "endpoint": f"http://127.0.0.1:{self.port}",
            "region": "us-east-1",
            "access_key_id": ACCESS_KEY,
            "secret_access_key": SECRET_KEY,
            "allow_http": True,
        }

    def copy(self, folder, prefix):
        """Copies the content of a folder below a prefix of the bucket."""
        target = f"http://127.0.0.1:{self.filer}.{self.filer_grpc}/buckets/{BUCKET}/{prefix}/"
        copied = subprocess.run([program(), "filer.copy", "-c=16", *map(str, folder.iterdir()), target], capture_output=True, text=True)
        if copied.returncode:
            raise BenchmarkError(f"cannot copy {folder} into the bucket: {copied.stderr[-2000:]}")

    def objects(self, prefix, suffix):
        """Returns the sizes of the objects below a prefix with this suffix, from the server's own list of files."""
        found, folders = [], [f"/buckets/{BUCKET}/{prefix}"]
        while folders:
            answer = http("GET", f"http://127.0.0.1:{self.filer}{folders.pop()}/?limit=1000", accept="application/json")
            for entry in json.loads(answer).get("Entries") or []:
                path = entry["FullPath"]
                if entry["Mode"] & 1 << 31:
                    folders.append(path)
                elif path.endswith(suffix):
                    found.append(size_of(entry))
        return found

    def requests(self):
        """Returns the number of S3 requests that it has answered."""
        lines = http("GET", f"http://127.0.0.1:{self.metrics}/metrics").splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("SeaweedFS_s3_request_total{"))

    def stop(self):
        # On SIGTERM it waits for ten seconds, and its content is no longer needed.
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.stop()
        empty(self.folder)


def size_of(entry):
    # The server omits fields that are zero.
    ends = (chunk.get("offset", 0) + chunk.get("size", 0) for chunk in entry.get("chunks") or [])
    return max(entry.get("FileSize") or 0, *ends, 0)


def program():
    """Returns the `weed` of scripts/install-test-tools, or the one on the path."""
    ours = Path(__file__).parents[2] / ".tools/venv/bin/weed"
    found = str(ours) if ours.exists() else shutil.which("weed")
    if not found:
        raise BenchmarkError("`weed` (SeaweedFS, an S3 server) is missing: run scripts/install-test-tools")
    return found
