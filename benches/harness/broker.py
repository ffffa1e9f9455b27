"""A private RabbitMQ node on the loopback interface, with its own name, ports, data and port mapper."""

import os
import subprocess
from pathlib import Path

import pika

from .site import BenchmarkError, answers_at, eventually, free_ports

HOME = Path("/usr/lib/rabbitmq/bin")


class Broker:
    """A running node."""

    def __init__(self, ctx, plugins=(), settings=""):
        if not (HOME / "rabbitmq-server").exists():
            raise BenchmarkError(f"{HOME}/rabbitmq-server is missing: run scripts/install-test-tools")
        self.folder = ctx.work / "rabbitmq"
        self.folder.mkdir()
        self.port, dist, epmd = free_ports(3)
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}/%2f"
        self.name = f"bench{os.getpid()}@localhost"
        (self.folder / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self.port}\ndisk_free_limit.absolute = 1MB\nlog.file.level = warning\n{settings}"
        )
        (self.folder / "plugins").write_text(f"[{','.join(plugins)}].\n")
        cookie = self.folder / ".erlang.cookie"
        cookie.write_text(f"bench{os.getpid()}")
        cookie.chmod(0o400)
        self.env = {
            "HOME": str(self.folder),
            "RABBITMQ_NODENAME": self.name,
            "RABBITMQ_DIST_PORT": str(dist),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "data"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq"),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "plugins"),
            "ERL_EPMD_PORT": str(epmd),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
        }
        (self.folder / "data").mkdir()
        (self.folder / "log").mkdir()
        ctx.start("epmd", ["epmd", "-port", epmd, "-address", "127.0.0.1"], self.env)
        eventually("the port mapper listens", lambda: answers_at(epmd))
        self.process = ctx.start("rabbitmq", [HOME / "rabbitmq-server"], self.env)
        eventually("RabbitMQ listens", lambda: answers_at(self.port), timeout=90)

    def take(self, queue):
        """Purges a queue and returns the number of its messages; 0 if the queue does not exist."""
        connection = pika.BlockingConnection(pika.URLParameters(self.url))
        try:
            channel = connection.channel()
            count = channel.queue_declare(queue, passive=True).method.message_count
            channel.queue_purge(queue)
            return count
        except pika.exceptions.ChannelClosedByBroker:
            return 0
        finally:
            connection.close()
