"""The test of deploy/test/rabbitmq-permissions, which describes it."""

import json
import os
import re
import secrets
import subprocess
import sys
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pika

from harness.broker import HOME, Broker
from harness.context import Context
from harness.site import BenchmarkError, answers_at, eventually, free_ports

ROOT = Path(__file__).resolve().parents[2]
DEFINITIONS = ROOT / "deploy/rabbitmq/definitions.json"
BIN = str(Path(sys.argv[1]).resolve())
VHOST = "polyhook"
SECRET = "whsec_permissions_test"
CALLS = 5
# The roles for which `polyhook doctor` checks each user. The last two run no polyhook.
ROLES = {
    "polyhook-receiver": ("receive",),
    "polyhook-worker": ("work", "run"),
    "polyhook-console": ("console",),
    "polyhook-operator": ("reconcile", "operate"),
    "polyhook-monitoring": (),
    "calls-consumer": (),
}
# What a role has beside the queue. A check that needs more must not be made.
SETTINGS = {
    "receive": ("SIGNATURE", "SERVER"),
    "work": ("POLYAI", "PROJECTS", "ARCHIVE"),
    "run": ("SIGNATURE", "SERVER", "POLYAI", "PROJECTS", "ARCHIVE"),
    "reconcile": ("POLYAI", "PROJECTS", "ARCHIVE"),
    "console": ("ARCHIVE",),
    "operate": ("POLYAI", "PROJECTS", "ARCHIVE"),
}
PARTS = ("vhosts", "users", "permissions", "policies", "exchanges", "queues", "bindings")


class PermissionTestError(Exception):
    """A user could not do what it should, or could do what it should not."""


def wait_for(what, condition, seconds=30.0):
    try:
        return eventually(what, condition, seconds, 0.1)
    except BenchmarkError as failed:
        raise PermissionTestError(str(failed)) from None


class Node(Broker):
    """A private RabbitMQ node."""

    def __init__(self, ctx):
        super().__init__(ctx)
        self.ctl("await_startup")

    def ctl(self, *arguments):
        command = [HOME / "rabbitmqctl", "-q", "-n", self.name, *arguments]
        done = subprocess.run(command, env={**os.environ, **self.env}, capture_output=True, text=True)
        if done.returncode:
            raise PermissionTestError(f"rabbitmqctl {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done.stdout

    def import_definitions(self, definitions):
        path = self.folder / "import.json"
        path.write_text(json.dumps(definitions))
        self.ctl("import_definitions", str(path))

    def export(self):
        path = self.folder / "export.json"
        self.ctl("export_definitions", str(path))
        return json.loads(path.read_text())

    def url_of(self, user, password, vhost=VHOST):
        return f"amqp://{user}:{password}@127.0.0.1:{self.port}/{vhost}"


def topology(exported, vhost):
    """Returns the declared exchanges, queues and bindings, sorted and normalized for comparison."""
    found = {}
    for part, keys in (
        ("exchanges", ("name", "vhost", "type", "durable", "auto_delete", "internal", "arguments")),
        ("queues", ("name", "vhost", "durable", "auto_delete", "arguments")),
        ("bindings", ("source", "vhost", "destination", "destination_type", "routing_key", "arguments")),
    ):
        rows = [{key: row[key] for key in keys if key in row} for row in exported.get(part, []) if row["vhost"] == vhost]
        for row in rows:
            row["vhost"] = VHOST
            if "arguments" in row:
                row["arguments"] = dict(sorted(row["arguments"].items()))
        found[part] = sorted(rows, key=lambda row: json.dumps(row, sort_keys=True))
    return found


def formatted(definitions):
    """Formats the definitions with one object per line where it fits, for readable diffs."""
    def lines(value, indent):
        flat = json.dumps(value)
        flat = flat if not isinstance(value, dict) or flat == "{}" else "{ " + flat[1:-1] + " }"
        if not isinstance(value, list) and len(flat) + len(indent) <= 138:
            return flat
        if isinstance(value, list):
            return "[" + ",".join(f"\n{indent}  {lines(one, indent + '  ')}" for one in value) + f"\n{indent}]"
        return "{" + ",".join(f"\n{indent}  {json.dumps(k)}: {json.dumps(v)}" for k, v in value.items()) + f"\n{indent}}}"

    parts = ",".join(f"\n  {json.dumps(part)}: {lines(definitions[part], '  ')}" for part in PARTS)
    return "{" + parts + "\n}\n"


class Process:
    def __init__(self, folder, name, arguments, env):
        self.name, self.log = name, folder / f"{name}.log"
        self.process = subprocess.Popen([BIN, *arguments], env=env, stdout=self.log.open("w"), stderr=subprocess.STDOUT, cwd=folder)

    def output(self):
        return self.log.read_text()

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def base_env():
    return {key: value for key, value in os.environ.items() if not key.startswith(("POLYHOOK", "POLYAI"))}


class Installation:
    """Receiver, worker and a simulated PolyAI, each with its own broker user."""

    def __init__(self, folder, node, passwords):
        self.folder, self.node, self.passwords = folder, node, passwords
        self.running = []
        self.receiver, self.receiver_admin, self.worker_admin, self.polyai, self.reconciler_admin = free_ports(5)
        (folder / "secret").write_text(SECRET + "\n")
        (folder / "key").write_text("permissions-test-key\n")
        (folder / "scenario.toml").write_text(
            f'signing_secret = "{SECRET}"\n\n[[projects]]\naccount_id = "acme"\naccount_slug = "acme"\n'
            'project_id = "desk"\nproject_slug = "desk"\napi_key = "permissions-test-key"\n'
        )

    def env(self, user, admin=0, **more):
        url = self.folder / f"url-{user}"
        url.write_text(self.node.url_of(user, self.passwords[user]))
        settings = {
            "QUEUE__URL_FILE": url,
            "SIGNATURE__SECRETS_FILE": self.folder / "secret",
            "SERVER__LISTEN": f"127.0.0.1:{self.receiver}",
            "ADMIN__LISTEN": f"127.0.0.1:{admin}",
            "POLYAI__BASE_URL": f"http://127.0.0.1:{self.polyai}",
            "POLYAI__PLATFORM_URL": f"http://127.0.0.1:{self.polyai}",
            "PROJECTS__0__ACCOUNT_ID": "acme",
            "PROJECTS__0__PROJECT_ID": "desk",
            "PROJECTS__0__API_KEY_FILE": self.folder / "key",
            "ARCHIVE__URL": f"file:{self.folder}/archive",
            "RECONCILE__EVERY": "0s",
            "LOG__LEVEL": "info",
            **more,
        }
        return {**base_env(), **{f"POLYHOOK__{key}": str(value) for key, value in settings.items()}}

    def start(self, name, arguments, env):
        process = Process(self.folder, name, arguments, env)
        self.running.append(process)
        return process

    def command(self, user, *arguments, **more):
        done = subprocess.run([BIN, *arguments], env=self.env(user, **more), capture_output=True, text=True, timeout=60, cwd=self.folder)
        if done.returncode:
            raise PermissionTestError(f"{user}: polyhook {' '.join(arguments)} ended with {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout

    def ready(self, process, port):
        def is_ready():
            if process.process.poll() is not None:
                raise PermissionTestError(f"{process.name} ended: {process.output()}")
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=3) as answer:
                    return answer.status == 200
            except OSError:
                return False
        try:
            wait_for(f"{process.name} is ready", is_ready, 8)
        except PermissionTestError as error:
            raise PermissionTestError(f"{error}\n{process.output()}") from None

    def metric(self, port, line):
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
        found = re.search(rf"^{re.escape(line)} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else None

    def archived(self):
        return len(list((self.folder / "archive").glob("account_id=*/**/manifest.json")))

    def remove_manifest(self):
        """Removes a manifest, so that its conversation counts as missing. Returns the number of manifests left."""
        next((self.folder / "archive").glob("account_id=*/**/manifest.json")).unlink()
        return self.archived()

    def stop(self):
        for process in reversed(self.running):
            process.stop()
        self.running.clear()


@contextmanager
def installation(node, passwords):
    with tempfile.TemporaryDirectory(prefix="polyhook-permissions-") as folder:
        it = Installation(Path(folder), node, passwords)
        try:
            yield it
        finally:
            it.stop()


def expect_no_denial(process):
    for line in process.output().splitlines():
        if "ACCESS_REFUSED" in line or "access to" in line:
            raise PermissionTestError(f"{process.name}: {line}")


def check_roles_work(node, passwords):
    """Lets each role do all of its work as its own user."""
    with installation(node, passwords) as it:
        receiver, worker, operator = "polyhook-receiver", "polyhook-worker", "polyhook-operator"
        own = connect_customer(node, passwords)
        simulator = it.start("simulate", ["simulate", f"--listen=127.0.0.1:{it.polyai}", "--scenario", "scenario.toml",
                                          f"--calls={CALLS}"], base_env())
        wait_for("the simulator listens", lambda: answers_at(it.polyai), 10)
        receive = it.start("receive", ["receive"], it.env(receiver, it.receiver_admin))
        it.ready(receive, it.receiver_admin)
        tail = it.start("tail", ["tail", "--json"], it.env(operator))
        time.sleep(1.2)
        # The first worker does not know the project, so jobs become dead letters at once. A later worker knows it.
        unknown_project = {"PROJECTS__0__PROJECT_ID": "another-project"}
        work = it.start("work-1", ["work"], it.env(worker, it.worker_admin, **unknown_project))
        it.ready(work, it.worker_admin)
        it.running.remove(simulator)
        simulator.stop()
        sender = it.start("send", ["simulate", f"--listen=127.0.0.1:{it.polyai}", "--scenario", "scenario.toml", f"--calls={CALLS}",
                                   f"--deliver-to=http://127.0.0.1:{it.receiver}/polyai-events"], base_env())
        dead = 'polyhook_queue_depth{queue="dead"}'
        wait_for("dead letters exist", lambda: (it.metric(it.worker_admin, dead) or 0) >= 1, 20)
        work.stop()
        expect_no_denial(work)
        # PolyAI is unreachable, so jobs wait in a delay queue. The schedule has a new delay, whose queue the worker may declare.
        work = it.start("work-2", ["work"], it.env(worker, it.worker_admin, POLYAI__BASE_URL="http://127.0.0.1:1",
                                                   RETRY__DELAYS="10s,20s,1m,5m,30m,2h,6h"))
        it.ready(work, it.worker_admin)
        listed = it.command(operator, "dead", "list", "--json")
        letters = [json.loads(line) for line in listed.splitlines() if line.strip()]
        if not letters:
            raise PermissionTestError("polyhook dead list found nothing")
        it.command(operator, "dead", "replay", "--all")
        waiting = 'polyhook_queue_depth{queue="retry"}'
        wait_for("jobs wait", lambda: (it.metric(it.worker_admin, waiting) or 0) >= 1, 20)
        work.stop()
        expect_no_denial(work)
        work = it.start("work-3", ["work"], it.env(worker, it.worker_admin))
        it.ready(work, it.worker_admin)
        wait_for("the delivered calls are archived", lambda: it.archived() >= CALLS, 25)
        # The archive has lost a conversation: operator and worker may both find it by reconciliation.
        reconcile = {"RECONCILE__EVERY": "2s", "RECONCILE__SETTLE": "0s", "RECONCILE__LOOKBACK": "30days"}
        before = it.remove_manifest()
        reconciler = it.start("reconcile", ["reconcile"], it.env(operator, it.reconciler_admin, **reconcile))
        wait_for("reconciliation restores it", lambda: it.archived() > before, 25)
        reconciler.stop()
        expect_no_denial(reconciler)
        work.stop()
        expect_no_denial(work)
        before = it.remove_manifest()
        work = it.start("work-4", ["work"], it.env(worker, it.worker_admin, **reconcile))
        it.ready(work, it.worker_admin)
        wait_for("the worker's own reconciliation restores it", lambda: it.archived() > before, 25)
        it.command(operator, "backfill", "--last", "30d")
        it.command(operator, "erase", "CA00000000000000000000000000000000", "--yes")
        for user in (operator, "polyhook-monitoring"):
            check_status(it, user)
        ready = consumed(own)
        if ready == 0:
            raise PermissionTestError("calls-consumer got no announcement")
        counted = message_count(node, "polyhook-monitoring", passwords, "polyhook.fetch")
        for process in (receive, work, sender):
            expect_no_denial(process)
        if '"what":"delivery"' not in tail.output().replace(" ", ""):
            raise PermissionTestError(f"polyhook tail saw no delivery: {tail.output()}")
        for admin in (it.receiver_admin, it.worker_admin):
            if it.metric(admin, dead) is None:
                raise PermissionTestError("a role cannot count the queues")
        return {"archived": it.archived(), "announced": ready, "dead, then replayed": len(letters), "counted": counted}


def doctor(it, user, role):
    """Returns the findings of the doctor for a role that has only what it needs."""
    env = it.env(user)
    other = tuple(f"POLYHOOK__{section}__" for section in {"SIGNATURE", "SERVER", "POLYAI", "PROJECTS", "ARCHIVE"} - {*SETTINGS[role]})
    env = {name: value for name, value in env.items() if not name.startswith(other)}
    done = subprocess.run([BIN, "doctor", "--role", role, "--json"], env=env, capture_output=True, text=True, timeout=90, cwd=it.folder)
    findings = json.loads(done.stdout)["findings"]
    failed = [finding for finding in findings if finding["state"] == "fail"]
    if done.returncode != int(bool(failed)):
        raise PermissionTestError(f"{user}: polyhook doctor --role {role} ended with {done.returncode}: {done.stdout}{done.stderr}")
    return findings, failed


def without_each(patterns):
    """Yields each permission and the name of an object, with the patterns without it."""
    for permission, pattern in patterns.items():
        names = re.search(r"polyhook\\\.\((.*?)\)", pattern)[1]
        for name in names.split("|"):
            others = "|".join(other for other in names.split("|") if other != name)
            object_name = "polyhook." + re.sub(r"\[.*", "", name).replace("\\", "")
            yield permission, object_name, patterns | {permission: pattern.replace(f"({names})", f"({others})")}
        if r"|amq\.default" in pattern:
            yield permission, "amq.default", patterns | {permission: pattern.replace(r"|amq\.default", "")}


def check_status(it, user):
    """Checks that a user sees all counts, the broker's version and the worker."""
    env = it.env(user, it.worker_admin)
    done = subprocess.run([BIN, "status", "--json"], env=env, capture_output=True, text=True, timeout=90, cwd=it.folder)
    report = json.loads(done.stdout)
    counted = report["queue"].keys() >= {"waiting_jobs", "in_flight_jobs", "delayed_jobs", "dead_letters"}
    if done.returncode or not counted or "broker" not in report["versions"] or not report["process"]["ready"]:
        raise PermissionTestError(f"{user}: polyhook status: {report}")


def check_doctor(node, definitions, passwords):
    """The doctor is green for each role, and names exactly the permission that its user lacks."""
    if unknown := {user["name"] for user in definitions["users"]} ^ {*ROLES}:
        raise PermissionTestError(f"ROLES must name the users of the definitions: {unknown}")
    cases, users, permissions = [], [], []
    for row in definitions["permissions"]:
        patterns = {permission: row[permission] for permission in ("configure", "write", "read")}
        for role in ROLES[row["user"]]:
            cases.append((row["user"], role, None))
        for n, (permission, name, reduced) in enumerate(without_each(patterns) if ROLES[row["user"]] else ()):
            user = f"{row['user']}-{n}"
            users.append({"name": user, "password": passwords[row["user"]], "tags": ""})
            passwords[user] = passwords[row["user"]]
            permissions.append({"user": user, "vhost": VHOST, **reduced})
            # The last role needs everything that the user may do.
            cases.append((user, ROLES[row["user"]][-1], (permission, name, patterns)))
    node.import_definitions({"users": users, "permissions": permissions})
    with installation(node, passwords) as it:
        it.start("simulate", ["simulate", f"--listen=127.0.0.1:{it.polyai}", "--scenario", "scenario.toml", "--calls=1"], base_env())
        wait_for("the simulator listens", lambda: answers_at(it.polyai), 10)
        (it.folder / "archive").mkdir()
        with ThreadPoolExecutor(4) as threads:
            for (user, role, lacks), (findings, failed) in zip(cases, threads.map(lambda case: doctor(it, *case[:2]), cases)):
                check_findings(user, role, lacks, findings, failed)
    return len(cases)


def check_findings(user, role, lacks, findings, failed):
    where = f"{user}: polyhook doctor --role {role}"
    if lacks is None:
        broker = [one for one in findings if one["check"].startswith("broker.") and one["check"] != "broker.policies"]
        if failed or len({one["check"] for one in broker}) != 4 or any(one["state"] != "ok" for one in broker):
            raise PermissionTestError(f"{where} is not green: {json.dumps(failed or broker, indent=2)}")
        return
    permission, name, patterns = lacks
    for one in failed:
        exact = one["target"] == name or name.endswith(".") and one["target"].startswith(name)
        advised = " ".join(f"'{pattern}'" for pattern in patterns.values())
        if one["check"] != "broker.permissions" or not exact or f"permission to {permission} it" not in one["message"]:
            raise PermissionTestError(f"{where} without {permission} on {name}: {one}")
        if f" {advised}`" not in one["next"]:
            raise PermissionTestError(f"{where} advises other permissions than {advised}: {one}")
    if not failed:
        raise PermissionTestError(f"{where} does not miss {permission} on {name}: {findings}")


def connect(node, user, passwords):
    credentials = pika.PlainCredentials(user, passwords[user])
    return pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", node.port, VHOST, credentials))


def connect_customer(node, passwords):
    connection = connect(node, "calls-consumer", passwords)
    channel = connection.channel()
    channel.queue_declare("calls.ready", durable=True, arguments={"x-queue-type": "quorum"})
    channel.queue_bind("calls.ready", "polyhook.conversations", "conversation.ready.#")
    channel.queue_bind("calls.ready", "polyhook.events", "handoff.#")
    return connection


def consumed(connection):
    connection.process_data_events()
    channel, count = connection.channel(), 0
    while (got := channel.basic_get("calls.ready", auto_ack=True))[0]:
        count += got[0].routing_key.startswith("conversation.ready.")
    connection.close()
    return count


def message_count(node, user, passwords, queue):
    """Counts messages as KEDA's scaler does."""
    connection = connect(node, user, passwords)
    try:
        return connection.channel().queue_declare(queue, passive=True).method.message_count
    finally:
        connection.close()


def publish(exchange, key):
    def attempt(channel):
        channel.confirm_delivery()
        channel.basic_publish(exchange, key, b"{}")
    return attempt


def get(queue):
    return lambda channel: channel.basic_get(queue)


FORBIDDEN = [
    ("polyhook-receiver", "read polyhook.fetch", get("polyhook.fetch")),
    ("polyhook-receiver", "consume polyhook.fetch", lambda channel: channel.basic_consume("polyhook.fetch", print)),
    ("polyhook-receiver", "purge polyhook.fetch", lambda channel: channel.queue_purge("polyhook.fetch")),
    ("polyhook-receiver", "read polyhook.dead", get("polyhook.dead")),
    ("polyhook-receiver", "read a delay queue", get("polyhook.fetch.retry.10s")),
    ("polyhook-receiver", "announce", publish("polyhook.conversations", "conversation.ready.live")),
    ("polyhook-receiver", "publish to a queue by name", publish("", "polyhook.dead")),
    ("polyhook-receiver", "bind a customer's queue", lambda channel: channel.queue_bind("calls.ready", "polyhook.events", "#")),
    ("polyhook-worker", "read polyhook.dead", get("polyhook.dead")),
    ("polyhook-worker", "read a customer's queue", get("calls.ready")),
    ("polyhook-console", "read polyhook.fetch", get("polyhook.fetch")),
    ("polyhook-console", "announce", publish("polyhook.conversations", "conversation.erased.live")),
    ("polyhook-console", "publish to a queue by name", publish("", "polyhook.dead")),
    ("polyhook-operator", "read polyhook.fetch", get("polyhook.fetch")),
    ("polyhook-operator", "read a customer's queue", get("calls.ready")),
    ("polyhook-monitoring", "read polyhook.fetch", get("polyhook.fetch")),
    ("polyhook-monitoring", "publish", publish("polyhook.events", "conversation.completed.live")),
    ("polyhook-monitoring", "declare a queue", lambda channel: channel.queue_declare("calls.monitoring")),
    ("calls-consumer", "publish an event", publish("polyhook.events", "conversation.completed.live")),
    ("calls-consumer", "publish an announcement", publish("polyhook.conversations", "conversation.ready.live")),
    ("calls-consumer", "publish to a queue by name", publish("", "polyhook.fetch")),
    ("calls-consumer", "read polyhook.fetch", get("polyhook.fetch")),
    ("calls-consumer", "read polyhook.dead", get("polyhook.dead")),
    ("calls-consumer", "read polyhook.unrouted", get("polyhook.unrouted")),
    ("calls-consumer", "delete polyhook.fetch", lambda channel: channel.queue_delete("polyhook.fetch")),
    ("calls-consumer", "delete polyhook.events", lambda channel: channel.exchange_delete("polyhook.events")),
    ("calls-consumer", "unbind polyhook.fetch", lambda channel: channel.queue_unbind("polyhook.fetch", "polyhook.events", "conversation.completed.#")),
    ("calls-consumer", "purge polyhook.fetch", lambda channel: channel.queue_purge("polyhook.fetch")),
    ("calls-consumer", "follow the tail", lambda channel: (channel.queue_declare("calls.tail", exclusive=True),
                                                           channel.queue_bind("calls.tail", "polyhook.tail", "#"))),
    ("calls-consumer", "dead-letter into polyhook.fetch", lambda channel: channel.queue_declare(
        "calls.forged", arguments={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "polyhook.fetch"})),
]


def check_forbidden(node, passwords):
    for user, what, attempt in FORBIDDEN:
        connection = connect(node, user, passwords)
        try:
            attempt(connection.channel())
        except pika.exceptions.ChannelClosedByBroker as closed:
            if closed.reply_code != 403:
                raise PermissionTestError(f"{user}: {what}: refused, but not because of permissions: {closed}") from None
        else:
            raise PermissionTestError(f"{user} may {what}, and must not")
        finally:
            connection.close()


def check_empty_password_is_rejected(node):
    try:
        connection = connect(node, "polyhook-receiver", {"polyhook-receiver": ""})
    except (pika.exceptions.ProbableAuthenticationError, pika.exceptions.AMQPConnectionError):
        return
    connection.close()
    raise PermissionTestError("the committed definitions accept an empty password")


def declared_topology(node):
    """Returns the topology that polyhook declares with all permissions in a new virtual host."""
    node.ctl("add_vhost", "scratch")
    node.ctl("set_permissions", "-p", "scratch", "guest", ".*", ".*", ".*")
    with installation(node, {"guest": "guest"}) as it:
        env = it.env("guest", it.worker_admin)
        (it.folder / "url-guest").write_text(node.url_of("guest", "guest", "scratch"))
        # A receiver declares no queue for refreshes.
        work = it.start("work", ["work"], env)
        it.ready(work, it.worker_admin)
    found = topology(node.export(), "scratch")
    node.ctl("delete_vhost", "scratch")
    return found


def recreate_vhost(node, definitions):
    """Creates the virtual host again, without any use."""
    node.ctl("delete_vhost", VHOST)
    node.import_definitions(definitions)


def reduced_patterns(pattern):
    """Yields, for each known name that the pattern matches, a pattern that excludes it, for `--tighten`."""
    names = ["amq.default", "polyhook.events", "polyhook.conversations", "polyhook.tail", "polyhook.unrouted", "polyhook.dead",
             "polyhook.fetch", "polyhook.fetch.retry.10s", "polyhook.tail.0a", "calls.ready"]
    for name in names:
        if re.search(pattern, name):
            like = re.escape(name)
            like = {"polyhook.fetch.retry.10s": r"polyhook\.fetch\.retry\..*", "polyhook.tail.0a": r"polyhook\.tail\..*"}.get(name, like)
            yield name, f"^(?!{like}$)(?:.*(?:{pattern}).*)" if not pattern.startswith("^") else f"^(?!{like}$){pattern[1:]}"


def tighten(node, definitions, passwords, user):
    unneeded = []
    for permission in definitions["permissions"]:
        if user not in ("", permission["user"]):
            continue
        for what in ("configure", "write", "read"):
            for name, reduced in reduced_patterns(permission[what]):
                less = json.loads(json.dumps(definitions))
                for other in less["permissions"]:
                    if other["user"] == permission["user"]:
                        other[what] = reduced
                recreate_vhost(node, less)
                try:
                    check_roles_work(node, passwords)
                except (PermissionTestError, pika.exceptions.AMQPError, OSError) as error:
                    print(f"  {permission['user']}: {what} {name}: needed ({str(error).splitlines()[0][:90]})", flush=True)
                else:
                    print(f"  {permission['user']}: {what} {name}: NOT needed", flush=True)
                    unneeded.append((permission["user"], what, name))
    return unneeded


def main():
    options = dict(option.partition("=")[::2] for option in sys.argv[2:])
    if unknown := set(options) - {"--tighten", "--write"}:
        sys.exit(f"rabbitmq-permissions: unknown: {' '.join(unknown)}")
    ctx = Context(quick=True, rounds=1, profile="dev")
    try:
        node = Node(ctx)
        definitions = json.loads(DEFINITIONS.read_text())
        found = declared_topology(node)
        if "--write" in options:
            definitions.update(found)
            DEFINITIONS.write_text(formatted(definitions))
        ours = {part: sorted(definitions[part], key=lambda row: json.dumps(row, sort_keys=True)) for part in found}
        if ours != found:
            raise PermissionTestError("polyhook declares another topology than definitions.json: run deploy/test/rabbitmq-permissions --write")
        node.import_definitions(definitions)
        check_empty_password_is_rejected(node)
        users = ctx.work / "passwords"
        users.mkdir()
        passwords = {user: secrets.token_hex(16) for user in ROLES}
        for user, password in passwords.items():
            (users / user).write_text(password + "\n")
        made = subprocess.run([ROOT / "deploy/rabbitmq/with-passwords", users], capture_output=True, text=True, check=True).stdout
        definitions = json.loads(made)
        node.import_definitions(definitions)
        print("works:", check_roles_work(node, passwords), flush=True)
        print(f"doctor: {check_doctor(node, definitions, passwords)} users and roles", flush=True)
        check_forbidden(node, passwords)
        print(f"refused: {len(FORBIDDEN)} forbidden operations", flush=True)
        if "--tighten" in options and (unneeded := tighten(node, definitions, passwords, options["--tighten"])):
            raise PermissionTestError(f"permissions that no role needs: {unneeded}")
    except PermissionTestError as error:
        sys.exit(f"rabbitmq-permissions: {error}")
    finally:
        ctx.close()


main()
