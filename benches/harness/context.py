"""The context of a section: starts processes and measures their cost, provides a broker, and knows the length of the rounds."""

import atexit
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from . import build
from .broker import Broker

ROOT = Path(__file__).resolve().parents[2]
TICKS = os.sysconf("SC_CLK_TCK")


class Process:
    """A program and its descendants, in a process group."""

    def __init__(self, name, argv, env, log):
        self.name, self.log = name, log
        with open(log, "wb") as out:
            self.popen = subprocess.Popen(
                [*map(str, argv)], env={**os.environ, **env}, stdout=out, stderr=out, start_new_session=True
            )
        self.pid = self.popen.pid

    def family(self):
        """Returns the process and all its descendants."""
        children = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                if fields := stat(entry.name):
                    children.setdefault(int(fields[1]), []).append(int(entry.name))
        found, todo = [], [self.pid]
        while todo:
            pid = todo.pop()
            found.append(pid)
            todo += children.get(pid, [])
        return found

    def cpu(self):
        """Returns the user and system time of all of them, including ended ones, in seconds."""
        return sum(sum(map(int, fields[11:15])) for pid in self.family() if (fields := stat(pid))) / TICKS

    def rss(self):
        """Returns the resident memory of all of them, in bytes."""
        return sum(self.resident().values())

    def resident(self):
        """Returns the resident memory by kind: `anon`, `file`."""
        found = {"anon": 0, "file": 0}
        for pid in self.family():
            try:
                lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            except OSError:
                continue
            for line in lines:
                if line.startswith(("RssAnon:", "RssFile:")):
                    found[line[3:7].lower()] += int(line.split()[1]) * 1024
        return found

    def stop(self, timeout=20):
        if self.popen.poll() is None:
            self.popen.terminate()
            try:
                self.popen.wait(timeout)
            except subprocess.TimeoutExpired:
                pass
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.popen.wait()


def stat(pid):
    """Returns the fields of `/proc/PID/stat` after the name: state, parent, …"""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


class Context:
    """See the module. Even if this process is killed, a shell that waits for the end of its input kills every started process group
    and removes the folder."""

    WATCHDOG = 'while read -r group; do groups="$groups -$group"; done; kill -9 $groups 2>/dev/null; sleep 1; rm -rf "$1"'

    def __init__(self, quick, rounds, profile, contenders=()):
        self.quick = quick
        self.rounds = rounds
        self.contenders = contenders
        self.root = ROOT
        self.bin = build.folder(profile)
        self.work = Path(tempfile.mkdtemp(prefix="polyhook-bench-"))
        self.started = []
        self._broker = None
        argv = ["sh", "-c", self.WATCHDOG, "watchdog", str(self.work)]
        self.watchdog = subprocess.Popen(argv, stdin=subprocess.PIPE, text=True, start_new_session=True)
        atexit.register(self.close)

    def compares(self, name):
        """Returns true if this contender is to be measured: all are, unless some were chosen."""
        return not self.contenders or name in self.contenders

    def start(self, name, argv, env):
        process = Process(name, argv, env, self.work / f"{name}.log")
        self.started.append(process)
        print(process.pid, file=self.watchdog.stdin, flush=True)
        return process

    def broker(self):
        """Returns a private RabbitMQ node."""
        if self._broker is None:
            self._broker = Broker(self)
        return self._broker

    def close(self):
        for process in reversed(self.started):
            process.stop()
        self.started = []
        # The system may reuse the ids of ended process groups.
        self.watchdog.kill()
        self.watchdog.wait()
        shutil.rmtree(self.work, ignore_errors=True)
