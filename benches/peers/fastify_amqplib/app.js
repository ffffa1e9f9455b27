// A receiver with Fastify and amqplib: a confirm channel; it answers after the confirm.
//
// Publishes directly into QUEUE with the few properties that one would write; with EXCHANGE set, through that topic exchange with
// the routing key, properties and headers of polyhook's events.
const crypto = require('node:crypto');
const amqp = require('amqplib');
const fastify = require('fastify')({ logger: false });

const { SECRET, AMQP_URL, QUEUE, EXCHANGE, PORT } = process.env;

function genuine(request) {
  const expected = crypto
    .createHmac('sha256', SECRET)
    .update(`${request.headers['x-polyai-timestamp']}.`)
    .update(request.body)
    .digest();
  const given = Buffer.from(request.headers['x-polyai-signature'] ?? '', 'hex');
  return given.length === expected.length && crypto.timingSafeEqual(given, expected);
}

function plain(request) {
  const properties = {
    persistent: true,
    mandatory: true,
    messageId: request.headers['x-polyai-event-id'],
    contentType: 'application/json',
  };
  return { exchange: '', key: QUEUE, properties };
}

function alike(request) {
  const { type, data } = JSON.parse(request.body);
  const now = new Date();
  const ids = crypto.randomBytes(24).toString('hex');
  const properties = {
    persistent: true,
    mandatory: true,
    messageId: request.headers['x-polyai-event-id'],
    correlationId: data.conversation_id,
    type,
    timestamp: Math.floor(now / 1000),
    contentType: request.headers['content-type'],
    appId: 'polyhook',
    headers: {
      'polyhook-received-at': now.toISOString(),
      traceparent: request.headers.traceparent ?? `00-${ids.slice(0, 32)}-${ids.slice(32)}-01`,
    },
  };
  return { exchange: EXCHANGE, key: `${type}.${data.environment}`, properties };
}

const message = EXCHANGE ? alike : plain;

async function main() {
  const connection = await amqp.connect(AMQP_URL);
  const channel = await connection.createConfirmChannel();
  if (!EXCHANGE) await channel.assertQueue(QUEUE, { durable: true, arguments: { 'x-queue-type': 'quorum' } });

  fastify.addContentTypeParser('application/json', { parseAs: 'buffer' }, (_, body, done) => done(null, body));
  fastify.post('/polyai-events', async (request, reply) => {
    if (!genuine(request)) return reply.code(401).send();
    const { exchange, key, properties } = message(request);
    try {
      await new Promise((stored, failed) => {
        channel.publish(exchange, key, request.body, properties, (error) => (error ? failed(error) : stored()));
      });
    } catch {
      return reply.code(503).send();
    }
    return reply.code(204).send();
  });
  await fastify.listen({ host: '127.0.0.1', port: Number(PORT) });
}

main();
