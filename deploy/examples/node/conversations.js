// Consumes polyhook's announcements with amqplib. ../README.md explains each step.
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { access, mkdir, readFile, readdir, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { GetObjectCommand, S3Client } from '@aws-sdk/client-s3';
import amqp from 'amqplib';

const { AMQP_URL, EXCHANGE = 'polyhook.conversations', QUEUE = 'calls', DONE = 'done' } = process.env;
const RETRY_DELAY = 1000; // milliseconds
const s3 = new S3Client({ forcePathStyle: Boolean(process.env.AWS_ENDPOINT_URL) });

class PoisonMessage extends Error {} // can never be processed
class ObjectMissing extends Error {}

// An s3:// URL holds the key as it is; the path of a file:// URL is percent-encoded.
async function* chunks(url) {
  try {
    if (url.startsWith('file:')) {
      yield* createReadStream(fileURLToPath(url));
    } else if (url.startsWith('s3://')) {
      const [, Bucket, Key] = url.match(/^s3:\/\/([^/]+)\/(.*)$/s);
      yield* (await s3.send(new GetObjectCommand({ Bucket, Key }))).Body;
    } else {
      throw new PoisonMessage(`cannot read ${url}`);
    }
  } catch (error) {
    throw ['ENOENT', 'NoSuchKey'].includes(error.code ?? error.name) ? new ObjectMissing(url) : error;
  }
}

async function text(url) {
  const parts = [];
  for await (const chunk of chunks(url)) parts.push(chunk);
  return Buffer.concat(parts).toString();
}

async function matchesHash(url, sha256) {
  const hash = createHash('sha256');
  for await (const chunk of chunks(url)) hash.update(chunk);
  return hash.digest('hex') === sha256;
}

// Replace this with your own work; here it is a summary.
const work = ({ conversation_id, project_id, started_at, turn_count }) =>
  ({ conversation_id, project_id, started_at, turn_count });

async function ready({ id, data: { manifest, urls } }) {
  const target = join(DONE, `${id}.json`);
  if (await access(target).then(() => true, () => false)) return 'repeat';
  try {
    let intact = true;
    for (const { name, sha256 } of manifest.objects) intact &&= await matchesHash(urls[name], sha256);
    if (!intact) {
      const now = JSON.parse(await text(urls['manifest.json']));
      if (now.revision > manifest.revision) return 'outdated'; // the newer revision has its own announcement
      throw new Error('an object does not match its sha256');
    }
  } catch (error) {
    if (error instanceof ObjectMissing) return 'missing';
    throw error;
  }
  // Work and record are one step (the rename). Otherwise a crash between them would repeat the work.
  await writeFile(`${target}.part`, JSON.stringify(work(manifest)));
  await rename(`${target}.part`, target);
  return 'done';
}

async function erased({ data: { conversation_id } }) {
  for (const name of (await readdir(DONE)).filter((name) => name.endsWith('.json'))) {
    const path = join(DONE, name);
    if (JSON.parse(await readFile(path)).conversation_id === conversation_id) await rm(path);
  }
  return 'erased';
}

const handlers = { 'conversation.ready': ready, 'conversation.updated': ready, 'conversation.erased': erased };

function parse(body) {
  let event;
  try { event = JSON.parse(body); } catch (error) { throw new PoisonMessage(error.message); }
  const needed = event?.type === 'conversation.erased' ? event.data?.conversation_id : event?.data?.manifest?.objects;
  if (!/^[0-9a-f]{64}$/.test(event?.id) || !handlers[event.type] || !needed) throw new PoisonMessage('not an announcement');
  return event;
}

async function handle(channel, message) {
  try {
    const event = parse(message.content);
    const outcome = await handlers[event.type](event);
    console.log(`${outcome} ${event.subject}`);
  } catch (error) {
    const poison = error instanceof PoisonMessage;
    console.log(`${poison ? 'poison' : 'retry'}: ${error.message}`);
    if (!poison) await sleep(RETRY_DELAY);
    channel.nack(message, false, !poison);
    return;
  }
  channel.ack(message);
}

const stopped = new Promise((resolve) => ['SIGTERM', 'SIGINT'].forEach((name) => process.on(name, () => resolve(true))));

async function consume(connection) {
  const channel = await connection.createChannel();
  await channel.assertQueue(`${QUEUE}.dead`, { durable: true, arguments: { 'x-queue-type': 'quorum' } });
  await channel.assertQueue(QUEUE, { durable: true, arguments: {
    'x-queue-type': 'quorum', 'x-delivery-limit': 10, 'x-overflow': 'reject-publish',
    'x-dead-letter-exchange': '', 'x-dead-letter-routing-key': `${QUEUE}.dead`, 'x-dead-letter-strategy': 'at-least-once',
  } });
  for (const type of Object.keys(handlers)) await channel.bindQueue(QUEUE, EXCHANGE, `${type}.#`);
  await channel.prefetch(8);
  const lost = new Promise((resolve) => connection.on('close', resolve));
  let previous = Promise.resolve(); // one message after the other, so that a repeat finds the result of the first
  const { consumerTag } = await channel.consume(QUEUE, (message) => {
    if (message) previous = previous.then(() => handle(channel, message)).catch((error) => console.error(`broker: ${error.message}`));
  });
  console.log(`waiting in ${QUEUE}`);
  if (await Promise.race([stopped, lost]) === true) {
    await channel.cancel(consumerTag);
    await previous;
  }
}

await mkdir(DONE, { recursive: true });
for (let stop = false; !stop; stop = await Promise.race([stopped, sleep(RETRY_DELAY)])) {
  try {
    const connection = await amqp.connect(AMQP_URL);
    connection.on('error', (error) => console.error(`broker: ${error.message}; connecting again`));
    await consume(connection);
    await connection.close();
  } catch (error) {
    console.error(`broker: ${error.message}; connecting again`);
  }
}
process.exit(0);
