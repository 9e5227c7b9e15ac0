// A line in the log every few seconds while the engine works.
import type { FastifyBaseLogger } from 'fastify';
import type { ServerContext } from './context.ts';
import { kvCacheUsage } from './metrics.ts';

const INTERVAL_MS = 10_000;

/** Returns what stops it. */
export function logStats({ llm }: ServerContext, log: FastifyBaseLogger): () => void {
  let last = llm.engine.stats();
  const timer = setInterval(() => {
    const stats = llm.engine.stats();
    const hasWorked = stats.numSteps !== last.numSteps;
    const perSecond = (now: number, before: number) =>
      ((1000 * Math.max(0, now - before)) / INTERVAL_MS).toFixed(1);
    const line =
      `prompt ${perSecond(stats.promptTokens, last.promptTokens)} tokens/s, ` +
      `generation ${perSecond(stats.generatedTokens, last.generatedTokens)} tokens/s, ` +
      `running ${stats.numRunning}, waiting ${stats.numWaiting}, ` +
      `KV cache ${(100 * kvCacheUsage(stats)).toFixed(1)} %, ` +
      `prefix cache hits ${hitRate(stats.prefixCacheHits, stats.prefixCacheQueries)}`;
    if (hasWorked) log.info(line);
    last = stats;
  }, INTERVAL_MS);
  timer.unref();
  return () => clearInterval(timer);
}

function hitRate(hits: number, queries: number): string {
  return queries === 0 ? 'none' : `${((100 * hits) / queries).toFixed(1)} %`;
}
