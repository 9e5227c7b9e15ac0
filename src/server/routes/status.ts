// GET routes for those who watch the server: health, version, load, metrics, and what the page shows.
import type { FastifyInstance } from 'fastify';
import { VERSION } from '../../util/version.ts';
import type { ServerContext } from '../context.ts';
import { kvCacheUsage } from '../metrics.ts';

export function addStatusRoutes(app: FastifyInstance, context: ServerContext): void {
  const { llm, activity, inFlight, metrics } = context;
  app.get('/health', async (_request, reply) => {
    const isHealthy = !activity.isDraining && (await llm.engine.isHealthy());
    return reply.code(isHealthy ? 200 : 503).send();
  });
  app.get('/ping', async (_request, reply) => reply.code((await llm.engine.isHealthy()) ? 200 : 503).send());
  app.get('/version', async () => ({ version: VERSION }));
  app.get('/load', async () => ({ server_load: inFlight.size }));
  app.get('/metrics', async (_request, reply) => {
    const text = await metrics.registry.metrics();
    return reply.header('content-type', metrics.registry.contentType).send(text);
  });
  app.get('/stats', async () => describeState(context));
}

/** What the page at `/` draws. Rates are for the reader to take from the totals. */
function describeState({ llm, inFlight, servedModelNames }: ServerContext): object {
  const stats = llm.engine.stats();
  const nowMs = performance.now();
  return {
    model: servedModelNames[0],
    device: llm.engine.info.device,
    recipe: llm.engine.info.recipe,
    max_model_len: llm.engine.info.maxModelLen,
    time_ms: nowMs,
    running: stats.numRunning,
    waiting: stats.numWaiting,
    kv_cache_usage: kvCacheUsage(stats),
    prompt_tokens: stats.promptTokens,
    generated_tokens: stats.generatedTokens,
    requests: Array.from(inFlight, ({ id, arrivalMs, numPromptTokens, numGeneratedTokens }) => ({
      id,
      age_ms: nowMs - arrivalMs,
      prompt_tokens: numPromptTokens,
      generated_tokens: numGeneratedTokens,
    })),
  };
}
