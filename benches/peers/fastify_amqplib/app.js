// A receiver with Fastify and amqplib: a confirm channel; it answers after the confirm.
const crypto = require('node:crypto');
const amqp = require('amqplib');
const fastify = require('fastify')({ logger: false });

const { SECRET, AMQP_URL, QUEUE, PORT } = process.env;

function genuine(request) {
  const expected = crypto
    .createHmac('sha256', SECRET)
    .update(`${request.headers['x-polyai-timestamp']}.`)
    .update(request.body)
    .digest();
  const given = Buffer.from(request.headers['x-polyai-signature'] ?? '', 'hex');
  return given.length === expected.length && crypto.timingSafeEqual(given, expected);
}

async function main() {
  const connection = await amqp.connect(AMQP_URL);
  const channel = await connection.createConfirmChannel();
  await channel.assertQueue(QUEUE, { durable: true, arguments: { 'x-queue-type': 'quorum' } });

  fastify.addContentTypeParser('application/json', { parseAs: 'buffer' }, (_, body, done) => done(null, body));
  fastify.post('/polyai-events', async (request, reply) => {
    if (!genuine(request)) return reply.code(401).send();
    const properties = {
      persistent: true,
      mandatory: true,
      messageId: request.headers['x-polyai-event-id'],
      contentType: 'application/json',
    };
    try {
      await new Promise((stored, failed) => {
        channel.sendToQueue(QUEUE, request.body, properties, (error) => (error ? failed(error) : stored()));
      });
    } catch {
      return reply.code(503).send();
    }
    return reply.code(204).send();
  });
  await fastify.listen({ host: '127.0.0.1', port: Number(PORT) });
}

main();
