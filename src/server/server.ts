// The HTTP server: OpenAI's API, and what is needed to watch and to end it.
import Fastify, { type FastifyInstance, LogController } from 'fastify';
import { NeedletailError } from '../util/errors.ts';
import { HttpActivity } from './activity.ts';
import { ApiKeys } from './api-keys.ts';
import type { ServerContext } from './context.ts';
import { addHooks, requestId } from './hooks.ts';
import { InFlightRequests } from './in-flight.ts';
import { Metrics } from './metrics.ts';
import { DEFAULT_SERVER_OPTIONS, type ServerOptions } from './options.ts';
import { addChatRoute } from './routes/chat.ts';
import { addCompletionRoute } from './routes/completions.ts';
import { addModelRoutes } from './routes/models.ts';
import { addPageRoutes } from './routes/page.ts';
import { addStatusRoutes } from './routes/status.ts';
import { addTokenizeRoutes } from './routes/tokenize.ts';
import { logStats } from './stats-log.ts';

export interface RunningServer {
  /** `http://127.0.0.1:8000` */
  readonly url: string;
  /** Refuses new requests, waits for the running ones up to the drain's limit, then ends everything. */
  close(): Promise<void>;
  /** Ends the running requests at once; `close` then has nothing to wait for. */
  abort(): void;
}

/** Time for cut-off responses to leave. */
const MAX_ABORT_MS = 1000;
/** Time for a client to send a whole request. */
const MAX_RECEIVE_MS = 120_000;

/** @throws NeedletailError `invalid_request` if it cannot listen there. */
export async function startServer(options: ServerOptions): Promise<RunningServer> {
  const settings: Required<ServerOptions> = { ...DEFAULT_SERVER_OPTIONS, ...options };
  checkSettings(settings);
  const context = createContext(settings);
  const app = createApp(context, settings);
  const stopLog = logStats(context, app.log);
  const stop = async () => {
    stopLog();
    await app.close();
    context.metrics.close();
  };
  const url = await listen(app, settings).catch(async (error: unknown) => {
    await stop();
    throw error;
  });
  const end = async () => {
    await drain(context.activity, settings.drainTimeoutMs);
    await stop();
    if (settings.ownsLLM) await settings.llm.close();
  };
  let closing: Promise<void> | null = null;
  return {
    url,
    close: () => (closing ??= end()),
    abort: () => context.activity.abortAll(),
  };
}

function checkSettings({ servedModelNames, apiKeys }: Required<ServerOptions>): void {
  if (servedModelNames.length === 0 || servedModelNames.includes('')) {
    throw new NeedletailError('invalid_request', 'give the model at least one name, and no empty one', {
      param: 'servedModelNames',
    });
  }
  if (apiKeys.some((key) => key.trim() === '')) {
    throw new NeedletailError('invalid_request', 'an API key must not be empty', { param: 'apiKeys' });
  }
}

function createContext({ llm, servedModelNames }: Required<ServerOptions>): ServerContext {
  const metrics = new Metrics(llm.engine, servedModelNames[0]);
  return {
    llm,
    servedModelNames,
    metrics,
    inFlight: new InFlightRequests(metrics),
    activity: new HttpActivity(),
    created: Math.floor(Date.now() / 1000),
  };
}

function createApp(context: ServerContext, settings: Required<ServerOptions>): FastifyInstance {
  const app = Fastify({
    bodyLimit: settings.maxBodyBytes,
    requestTimeout: MAX_RECEIVE_MS,
    forceCloseConnections: true,
    logController: new LogController({ disableRequestLogging: true }), // hooks.ts writes one line a request
    genReqId: (request) => requestId(request.headers['x-request-id']),
    // Standard output is the caller's.
    logger: { level: settings.logLevel, stream: process.stderr },
  });
  // A form of another site may send text, but JSON only after this server has allowed it.
  app.removeContentTypeParser('text/plain');
  addHooks(app, context, { keys: new ApiKeys(settings.apiKeys), allowedOrigins: settings.allowedOrigins });
  addCompletionRoute(app, context);
  addChatRoute(app, context);
  addModelRoutes(app, context);
  addTokenizeRoutes(app, context);
  addStatusRoutes(app, context);
  addPageRoutes(app);
  return app;
}

async function listen(app: FastifyInstance, { host, port }: Required<ServerOptions>): Promise<string> {
  try {
    return await app.listen({ host, port });
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    const problem = code === 'EADDRINUSE' ? `port ${port} is in use; choose another with --port` : message;
    throw new NeedletailError('invalid_request', `cannot listen on ${host}: ${problem}`, {
      param: 'port',
      cause: error,
    });
  }
}

async function drain(activity: HttpActivity, timeoutMs: number): Promise<void> {
  activity.isDraining = true;
  if (await activity.whenIdle(timeoutMs)) return;
  activity.abortAll();
  await activity.whenIdle(MAX_ABORT_MS);
}
