"""Tests rules and dashboard on a running system: Prometheus scrapes two receivers (one with a spool), a worker and RabbitMQ under
load. At first no alert may fire. Then the test causes faults: the alerts of each fault must fire, and end with it. Every query of
the dashboard must return data.

The rules are those of deploy/monitoring/alerts.yaml with seconds instead of minutes and hours. `promtool test rules` tests the
real times.
"""

import hashlib
import hmac
import json
import os
import re
import signal
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from harness.broker import Broker
from harness.context import Context
from harness.site import BenchmarkError, Simulator, Site, answers, eventually, free_ports, http

ROOT = Path(__file__).resolve().parents[2]
MONITORING = ROOT / "deploy/monitoring"
SECRET, OTHER = "the-secret-of-the-live-test", "another-secret-of-the-live-test"
#: Metrics without data in this test, and the reason.
MAY_BE_EMPTY = {
    "polyhook_queue_writes": "only the embedded queue has it",
    "polyhook_jobs_waiting": "jobs wait without a slot only if there are several projects",
    "polyhook_notes_dropped_total": "no `polyhook tail` runs",
}
results = []


def shortened(rules):
    """Shortens windows, offsets and `for` to seconds. A week stays a week, so PolyhookNoTraffic cannot fire here."""
    windows = {"10m": "12s", "15m": "15s", "30m": "20s", "1h": "25s", "2h": "30s", "6h": "30s", "1d": "60s"}
    rules = re.sub(r"\[(\w+)\]", lambda found: f"[{windows[found[1]]}]", rules)
    rules = re.sub(r"offset (10m|15m|30m|1h|2h|6h)", lambda found: f"offset {windows[found[1]]}", rules)
    # Half a minute of data cannot predict a day.
    rules = re.sub(r" or predict_linear\([^\n]*", "", rules)
    return re.sub(r"for: \w+", "for: 2s", rules)


class Prometheus:
    def __init__(self, ctx):
        (port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        self.targets = ctx.work / "targets.json"
        self.set_targets({})
        (ctx.work / "alerts.yaml").write_text(shortened((MONITORING / "alerts.yaml").read_text()))
        config = ctx.work / "prometheus.yaml"
        config.write_text(
            "global: { scrape_interval: 1s, scrape_timeout: 900ms, evaluation_interval: 1s }\n"
            "rule_files: [alerts.yaml]\n"
            "scrape_configs:\n"
            f"  - {{ job_name: live, file_sd_configs: [{{ files: [{self.targets}], refresh_interval: 1s }}] }}\n"
        )
        argv = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={ctx.work}/tsdb"]
        ctx.start("prometheus", [*argv, f"--web.listen-address=127.0.0.1:{port}", "--query.lookback-delta=10s"], {})
        eventually("Prometheus is ready", lambda: answers(f"{self.url}/-/ready"))

    def set_targets(self, targets):
        """Scrapes these targets from now on, by name."""
        found = [{"targets": [url.removeprefix("http://")], "labels": {"process": name}} for name, url in targets.items()]
        self.targets.write_text(json.dumps(found))

    def query(self, expr):
        answer = http("GET", f"{self.url}/api/v1/query?{urllib.parse.urlencode({'query': expr})}")
        return json.loads(answer)["data"]["result"]

    def firing(self):
        return sorted({each["metric"]["alertname"] for each in self.query('ALERTS{alertstate="firing"}')})


class Traffic:
    """Sends some deliveries per second to each receiver, for calls that the simulated PolyAI knows."""

    def __init__(self, simulator, urls):
        self.simulator, self.urls = simulator, urls
        self.script = {"audio_size": "20000 B"}
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        while not self.ended.wait(0.2):
            for url, call in zip(self.urls, self.simulator.add_calls(len(self.urls), turns=1, environment="live", channel="VOICE-SIP", script=self.script)):
                # In a thread each: one that waits for the broker must not delay the other.
                threading.Thread(target=self.post, args=(url, call)).start()

    def post(self, url, call):
        body = json.dumps({"type": "conversation.completed", "data": {"conversation_id": call, "environment": "live"}}).encode()
        stamp = str(int(time.time()))
        signature = hmac.new(SECRET.encode(), f"{stamp}.".encode() + body, hashlib.sha256).hexdigest()
        headers = {"content-type": "application/json", "x-polyai-signature": signature, "x-polyai-timestamp": stamp, "x-polyai-event-id": f"evt-{call}"}
        try:
            urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=10).close()
        except (urllib.error.HTTPError, OSError):
            pass

    def stop(self):
        self.ended.set()
        self.thread.join()


def expect(prometheus, fault, *alerts, timeout=90):
    """Waits until these alerts fire."""
    begin = time.monotonic()
    try:
        eventually(f"{fault}: {', '.join(alerts)}", lambda: set(alerts) <= set(prometheus.firing()), timeout, 0.5)
    except BenchmarkError as failed:
        raise BenchmarkError(f"{failed}; firing: {prometheus.firing()}") from None
    results.append((fault, ", ".join(prometheus.firing()), f"{time.monotonic() - begin:.0f} s"))
    print(f"  {results[-1]}", flush=True)


# Fires for six hours after reconciliation has found the calls whose deliveries a receiver refused.
LASTING = "PolyhookFoundMissing"


def expect_silence(prometheus, when, timeout=60):
    """Waits until no alert fires, then checks for some seconds that it stays so."""
    def firing():
        return [alert for alert in prometheus.firing() if alert != LASTING]

    try:
        eventually(f"no alert, {when}", lambda: not firing(), timeout, 0.5)
    except BenchmarkError as failed:
        raise BenchmarkError(f"{failed}; firing: {firing()}") from None
    for _ in range(10):
        if found := firing():
            raise BenchmarkError(f"{when}: {found} fires")
        time.sleep(0.5)
    results.append((when, "none", ""))
    print(f"  {results[-1]}", flush=True)


def check_dashboard(prometheus):
    """Checks that every query returns data of a metric, not only its fallback `vector(0)`."""
    queries, empty, excused = 0, [], set()
    for panel in json.loads((MONITORING / "dashboard.json").read_text())["panels"]:
        for target in panel.get("targets", []):
            queries += 1
            expr = target["expr"].removesuffix(" or vector(0)").replace("$namespace", ".*").replace("$__rate_interval", "10s")
            # Without events a rate may be NaN, which counts as data.
            if not prometheus.query(expr):
                known = {name for name in MAY_BE_EMPTY if name in expr}
                excused |= known
                if not known:
                    empty.append(f"{panel['title']}: {expr}")
    if empty:
        raise BenchmarkError("no data for\n  " + "\n  ".join(empty))
    results.append((f"{queries} queries of the dashboard", "all return data", ""))
    results.extend((f"  except {name}", MAY_BE_EMPTY[name], "") for name in sorted(excused))


def beam(broker):
    """Returns the pid of the Erlang virtual machine, without its start scripts."""
    return next(pid for pid in broker.process.family() if Path(f"/proc/{pid}/comm").read_text().startswith("beam"))


def run(ctx):
    (port,) = free_ports(1)
    broker = Broker(ctx, ["rabbitmq_prometheus"], f"prometheus.tcp.ip = 127.0.0.1\nprometheus.tcp.port = {port}\n")
    simulator = Simulator(ctx, "polyai")
    key, secrets = ctx.work / "key", ctx.work / "secrets"
    key.write_text(simulator.project["api_key"])
    secrets.write_text(SECRET)
    project = {name: simulator.project[name] for name in ("account_id", "project_id")} | {"api_key_file": str(key)}
    shared = {"queue": {"url": broker.url}, "projects": [project], "reconcile": {"every": "5s"}, "worker": {"concurrency": 4}}

    def site(name, **more):
        made = Site(ctx, name, simulator, {**shared, **more})
        text = made.config.read_text()
        made.config.write_text(re.sub(r"^secrets = .*$", f"secrets_file = {json.dumps(str(secrets))}", text, flags=re.M))
        return made

    spooled = site("spooled", spool={"path": str(ctx.work / "spool.db")}).start("receive")
    bare = site("bare").start("receive")
    working = site("working")
    worker = working.start("work")
    targets = {"spooled": spooled.admin, "bare": bare.admin, "worker": worker.admin, "rabbitmq": f"http://127.0.0.1:{port}"}
    prometheus = Prometheus(ctx)
    prometheus.set_targets(targets)
    traffic = Traffic(simulator, [spooled.url, bare.url])
    try:
        time.sleep(40)
        expect_silence(prometheus, "before any fault")

        os.kill(beam(broker), signal.SIGSTOP)
        expect(prometheus, "RabbitMQ hangs", "PolyhookSpoolNotDraining", "PolyhookDeliveriesRefused", "PolyhookCondition")
        os.kill(beam(broker), signal.SIGCONT)
        expect_silence(prometheus, "RabbitMQ is back")

        key.write_text("an-unknown-key")
        expect(prometheus, "a wrong API key", "PolyhookKeyRejected", "PolyhookDeadLetters", "PolyhookMostlyDead")
        key.write_text(simulator.project["api_key"])
        expect_silence(prometheus, "the right key is restored")

        os.kill(worker.process.pid, signal.SIGKILL)
        expect(prometheus, "the worker is killed", "PolyhookNobodyWorks", "PolyhookProcessDown")
        worker = working.start("work")
        prometheus.set_targets({**targets, "worker": worker.admin})
        expect_silence(prometheus, "a new worker runs")

        secrets.write_text(OTHER)
        expect(prometheus, "another signing secret", "PolyhookNothingVerifies")
        secrets.write_text(SECRET)
        expect_silence(prometheus, "the right secret is restored")

        traffic.script["hidden_transcript"] = True
        eventually("hidden transcripts are counted", lambda: prometheus.query("rate(polyhook_hidden_transcripts_total[10s]) > 0"))

        check_dashboard(prometheus)
    finally:
        traffic.stop()


def main():
    ctx = Context(quick=True, rounds=1, profile="dev")
    given = os.environ.get("POLYHOOK_BIN")
    found = [Path(given)] if given else [ROOT / f"target/{profile}/polyhook" for profile in ("debug", "release")]
    ctx.bin = max((path for path in found if path.exists()), key=lambda path: path.stat().st_mtime).parent
    try:
        run(ctx)
    except BenchmarkError as failed:
        print(f"monitoring-live: {failed}", file=sys.stderr)
        return 1
    finally:
        ctx.close()
        for what, alerts, took in results:
            print(f"{what:<34} {alerts:<100} {took}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
