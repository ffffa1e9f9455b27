"""Runs polyhook as an operator does: with a configuration in its own folder, a simulated PolyAI, and its own ports."""

import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

TIMEOUT = 60
#: The signing secret, unless the simulator has its own.
SECRET = "a-secret-of-the-benchmark"


class BenchmarkError(Exception):
    """A measurement failed or is not valid."""


def free_ports(count):
    """Returns free ports of the loopback interface."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def http(method, url, body=None, accept="*/*"):
    """Sends a request and returns the body of a successful response."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, method=method, headers={"accept": accept})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
        return answer.read().decode()


def eventually(what, check, timeout=TIMEOUT, pause=0.02):
    """Waits until `check` returns a true value, and returns it."""
    end = time.monotonic() + timeout
    while not (found := check()):
        if time.monotonic() > end:
            raise BenchmarkError(f"{what}: not within {timeout} s")
        time.sleep(pause)
    return found


def peak_rss(pid):
    """Returns the peak resident memory of a running process, in bytes; 0 if it has ended."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def run_once(argv, timeout=600, codes=(0,), keep=True):
    """Runs a program to its end and returns its output and cost. Without `keep` the output is discarded."""
    out = subprocess.PIPE if keep else subprocess.DEVNULL
    start = time.monotonic()
    process = subprocess.Popen([str(word) for word in argv], stdout=out, stderr=subprocess.PIPE)
    try:
        stdout, stderr, usage, peak = _finish(process, start + timeout)
    except BaseException:
        process.kill()
        process.wait()
        raise
    if process.returncode not in codes:
        raise BenchmarkError(f"{argv[0]} {argv[1]} ended with {process.returncode}: {stderr.decode()[-2000:]}")
    return {
        "stdout": stdout.decode(),
        "seconds": time.monotonic() - start,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_rss": peak,
    }


def _finish(process, end):
    """Reads both pipes and reaps the process, because only the reaper gets its cost. Polls the peak memory while it runs: the final
    value of the kernel includes the memory of this process at the fork."""
    parts, peak = {process.stdout: b"", process.stderr: b""}, 0
    pipes = [pipe for pipe in parts if pipe]
    for pipe in pipes:
        os.set_blocking(pipe.fileno(), False)
    while True:
        for pipe in pipes:
            while chunk := pipe.read(1 << 20):
                parts[pipe] += chunk
        peak = max(peak, peak_rss(process.pid))
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        if time.monotonic() > end:
            raise BenchmarkError(f"{process.args[0]} {process.args[1]} does not end")
        time.sleep(0.002)
    for pipe in pipes:
        os.set_blocking(pipe.fileno(), True)
        parts[pipe] += pipe.read() or b""
        pipe.close()
    process.returncode = os.waitstatus_to_exitcode(status)
    return parts.get(process.stdout, b""), parts[process.stderr], usage, peak


class Simulator:
    """A simulated PolyAI, scripted through its control interface."""

    def __init__(self, ctx, name, scenario=""):
        (port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        path = Path(ctx.work) / f"{name}.scenario.toml"
        path.write_text(scenario or "calls = 0\n")
        argv = [str(ctx.bin / "polyhook"), "simulate", "--listen", f"127.0.0.1:{port}", "--scenario", str(path), "--json"]
        self.process = ctx.start(f"{name}-simulator", argv, {})
        eventually("the simulator answers", lambda: answers(f"{self.url}/_simulator/"))
        about = self.control("GET", "")
        self.secret = about["signing_secret"]
        self.project = about["projects"][0]

    def control(self, method, path, body=None):
        answer = http(method, f"{self.url}/_simulator/{path}", body)
        return json.loads(answer) if answer else None

    def add_calls(self, count, **what):
        """Adds `count` equal conversations and returns their ids."""
        added = self.control("POST", "calls", {"count": count, **what})
        return [call["id"] for call in added["calls"]]

    def deliver(self, url, ids, **sender):
        """Lets the simulator deliver the end of these conversations."""
        order = {"url": url, "conversation_ids": ids, "sender": sender, "events": {"handoffs": False}}
        return self.control("POST", "deliver", order)["deliveries"]

    def stop(self):
        self.process.stop()


def answers(url):
    """Returns true if the URL answers with success."""
    try:
        http("GET", url)
        return True
    except (OSError, urllib.error.URLError):
        return False


def empty(folder):
    """Truncates the files of a folder, but does not delete them. ext4 avoids recently freed inodes, so a mass deletion would slow
    down the next measurement."""
    for path in Path(folder).rglob("*"):
        if path.is_file() and not path.is_symlink():
            os.truncate(path, 0)


def answers_at(port):
    """Returns true if a process listens on the port."""
    with socket.socket() as attempt:
        return attempt.connect_ex(("127.0.0.1", port)) == 0


class Site:
    """A folder with a configuration. `sections` change it: `{"worker": {"concurrency": 8}}`."""

    def __init__(self, ctx, name, simulator, sections=None):
        self.ctx, self.name = ctx, name
        self.folder = Path(ctx.work) / name
        self.folder.mkdir()
        self.archive = self.folder / "archive"
        self.queue_file = self.folder / "queue.db"
        self.secret = simulator.secret if simulator else SECRET
        url = simulator.url if simulator else "http://127.0.0.1:9"
        project = simulator.project if simulator else {"account_id": "ACCOUNT-1", "project_id": "PROJECT-0", "api_key": "none"}
        config = {
            "signature": {"secrets": [self.secret]},
            "queue": {"url": f"sqlite:{self.queue_file}"},
            "polyai": {"base_url": url, "platform_url": url, "max_requests_per_second": 1000000},
            "archive": {"url": f"file:{self.archive}"},
            "reconcile": {"every": "0s"},
            "log": {"format": "json"},
        }
        sections = dict(sections or {})
        projects = sections.pop("projects", [project])
        for section, keys in sections.items():
            config.setdefault(section, {}).update(keys)
        self.config = self.folder / "polyhook.toml"
        self.config.write_text(to_toml(config) + "".join("[[projects]]\n" + to_keys(each) for each in projects))

    def argv(self, *words):
        """Returns the arguments to run polyhook with this configuration."""
        return [str(self.ctx.bin / "polyhook"), *words, "--config", str(self.config)]

    def remove(self):
        """Frees the disk space of its files."""
        empty(self.folder)

    def start(self, role):
        """Starts a role and waits until it is ready."""
        return Service(self, role)


class Service:
    """A running `receive`, `work` or `run`."""

    def __init__(self, site, role):
        listen, admin = free_ports(2)
        self.url = f"http://127.0.0.1:{listen}/polyai-events"
        self.admin = f"http://127.0.0.1:{admin}"
        settings = [f"admin.listen=127.0.0.1:{admin}"]
        if role != "work":
            settings.append(f"server.listen=127.0.0.1:{listen}")
        argv = site.argv(role, *(word for setting in settings for word in ("--set", setting)))
        self.started = time.monotonic()
        self.process = site.ctx.start(f"{site.name}-{role}", argv, {})
        eventually(f"{role} is ready", lambda: answers(f"{self.admin}/readyz"), pause=0.005)

    def peak_rss(self):
        """Returns the peak resident memory, in bytes."""
        return peak_rss(self.process.pid)

    def metrics(self):
        """Returns the metrics by name with labels."""
        lines = http("GET", f"{self.admin}/metrics").splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    def total(self, name, label=""):
        """Returns the sum of a metric over all label sets that contain `label`."""
        found = self.metrics()
        return sum(value for key, value in found.items() if key.split("{")[0] == name and label in key)

    def stop(self):
        self.process.stop()


def to_toml(config):
    """Formats the sections of a configuration."""
    return "".join(f"[{section}]\n{to_keys(keys)}" for section, keys in config.items())


def to_keys(keys):
    # Strings, numbers and lists of JSON are valid TOML.
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items())
