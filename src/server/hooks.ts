// What happens to every request around its route: request id, CORS, API key, draining, errors, metrics, the log line.
import { randomUUID } from 'node:crypto';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import type { ApiKeys } from './api-keys.ts';
import type { ServerContext } from './context.ts';
import { type HttpError, httpError, shuttingDown, toHttpError, unauthorized } from './errors.ts';

/** The one route that answers without a key, and while the server drains. */
const HEALTH = '/health';
const PAGE = '/';

export interface HookSettings {
  readonly keys: ApiKeys;
  readonly allowedOrigins: readonly string[];
}

export function addHooks(app: FastifyInstance, context: ServerContext, settings: HookSettings): void {
  app.addHook('onRequest', async (request, reply) => {
    watch(request, reply, context);
    reply.header('x-request-id', request.id);
    const isPreflight = allowOrigin(request, reply, settings.allowedOrigins);
    if (isPreflight) return reply.code(204).send();
    if (request.routeOptions.url === HEALTH) return;
    if (!settings.keys.accept(request.headers.authorization)) return refuseKey(request, reply);
    if (context.activity.isDraining) throw shuttingDown();
  });
  app.setErrorHandler((error, request, reply) => {
    const failure = toHttpError(error);
    // 503: whatever keeps the engine away was logged where it happened, with its stack.
    if (failure.status === 503)
      request.log.info({ code: failure.body.error.code }, failure.body.error.message);
    else if (failure.status >= 500) request.log.error({ err: error }, 'request failed');
    return sendError(reply, failure, context);
  });
  app.setNotFoundHandler((request, reply) =>
    sendError(
      reply,
      httpError(404, `there is no route ${request.method} ${pathOf(request)}`, 'not_found'),
      context,
    ),
  );
}

const REQUEST_ID = /^[\x21-\x7e]{1,128}$/;

/** The caller's own id if it is short and printable, else a new one. */
export function requestId(given: string | readonly string[] | undefined): string {
  return typeof given === 'string' && REQUEST_ID.test(given) ? given : randomUUID();
}

/** Counts the request until its response has left or its client has. */
function watch(request: FastifyRequest, reply: FastifyReply, { activity, metrics }: ServerContext): void {
  activity.begin();
  reply.raw.once('close', () => {
    activity.end();
    const { statusCode } = reply.raw;
    const ms = reply.elapsedTime;
    metrics.observeHttp(request.routeOptions.url ?? 'none', request.method, statusCode, ms / 1000);
    request.log.info(
      { method: request.method, path: pathOf(request), status: statusCode, ms: Math.round(ms) },
      'request',
    );
  });
}

/** Lets pages of allowed origins read the answer. True for a preflight that is thereby answered. */
function allowOrigin(request: FastifyRequest, reply: FastifyReply, allowed: readonly string[]): boolean {
  const { origin } = request.headers;
  if (origin === undefined || !(allowed.includes('*') || allowed.includes(origin))) return false;
  reply.header('access-control-allow-origin', origin).header('vary', 'Origin');
  reply.header('access-control-expose-headers', 'x-request-id, retry-after');
  if (request.method !== 'OPTIONS') return false;
  reply.header('access-control-allow-methods', 'GET, POST');
  const wanted =
    request.headers['access-control-request-headers'] ?? 'authorization, content-type, x-request-id';
  reply.header('access-control-allow-headers', wanted).header('access-control-max-age', '600');
  return true;
}

/** A browser that opens the page is told to ask for the key, which it then sends with everything the page fetches. */
function refuseKey(request: FastifyRequest, reply: FastifyReply): FastifyReply {
  const scheme = request.routeOptions.url === PAGE ? 'Basic' : 'Bearer';
  const { status, body } = unauthorized();
  return reply.code(status).header('www-authenticate', `${scheme} realm="needletail"`).send(body);
}

function sendError(reply: FastifyReply, { status, body }: HttpError, context: ServerContext): FastifyReply {
  if (status === 429) reply.header('retry-after', retryAfter(context));
  if (context.activity.isDraining) reply.header('connection', 'close');
  return reply.code(status).send(body);
}

function retryAfter({ inFlight, llm }: ServerContext): number {
  return inFlight.retryAfterSeconds(llm.engine.stats());
}

function pathOf(request: FastifyRequest): string {
  return request.url.split('?', 1)[0].slice(0, 200);
}
