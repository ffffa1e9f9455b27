"""A receiver with FastAPI and aio-pika: a robust connection with publisher confirms, which aio-pika awaits."""

import hashlib
import hmac
import os
from contextlib import asynccontextmanager

import aio_pika
from fastapi import FastAPI, Request, Response

SECRET = os.environ["SECRET"].encode()
QUEUE = os.environ["QUEUE"]


@asynccontextmanager
async def lifespan(app):
    connection = await aio_pika.connect_robust(os.environ["AMQP_URL"])
    async with connection:
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        await channel.declare_queue(QUEUE, durable=True, arguments={"x-queue-type": "quorum"})
        app.state.exchange = channel.default_exchange
        yield


app = FastAPI(lifespan=lifespan)


def genuine(request, body):
    signed = request.headers.get("x-polyai-timestamp", "").encode() + b"." + body
    expected = hmac.new(SECRET, signed, hashlib.sha256).hexdigest()
    return hmac.compare_digest(expected, request.headers.get("x-polyai-signature", ""))


@app.post("/polyai-events")
async def deliver(request: Request):
    body = await request.body()
    if not genuine(request, body):
        return Response(status_code=401)
    message = aio_pika.Message(
        body,
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        message_id=request.headers.get("x-polyai-event-id"),
        content_type="application/json",
    )
    try:
        await app.state.exchange.publish(message, routing_key=QUEUE, mandatory=True)
    except aio_pika.exceptions.AMQPError:
        return Response(status_code=503)
    return Response(status_code=204)
