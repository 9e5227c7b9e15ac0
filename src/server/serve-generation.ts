// Runs the jobs of one HTTP request and answers it, as a stream or in one piece.
import type { FastifyReply } from 'fastify';
import type { GenerationChunk, GenerationResult } from '../llm/chunk.ts';
import { ResultCollector } from '../llm/collect.ts';
import type { GenerationJob } from '../llm/resolve.ts';
import { NeedletailError } from '../util/errors.ts';
import type { ServerContext } from './context.ts';
import { toHttpError } from './errors.ts';
import type { ResponseFormat } from './response-format.ts';
import { SseStream } from './sse.ts';
import { UsageMeter } from './usage.ts';

/** Takes each chunk of each job; the job goes on when what is returned has resolved. */
type ChunkSink = (job: number, chunk: GenerationChunk) => Promise<void> | null;

export interface Exchange {
  readonly context: ServerContext;
  readonly reply: FastifyReply;
  /** Milliseconds of `performance.now()`. */
  readonly arrivalMs: number;
}

export function exchangeOf(context: ServerContext, reply: FastifyReply): Exchange {
  return { context, reply, arrivalMs: performance.now() - reply.elapsedTime };
}

/** Resolves to what the route returns. */
export async function serveGeneration(
  exchange: Exchange,
  jobs: readonly GenerationJob[],
  format: ResponseFormat,
  isStream: boolean,
): Promise<object> {
  if (!isStream) return collectGeneration(exchange, jobs, format);
  await streamGeneration(exchange, jobs, format);
  return exchange.reply;
}

/** Answers with events. Until the first one is due a failure is still an ordinary error response. */
async function streamGeneration(
  exchange: Exchange,
  jobs: readonly GenerationJob[],
  format: ResponseFormat,
): Promise<void> {
  const stream = new SseStream(exchange.reply);
  const meter = new UsageMeter(jobs);
  const usage = () => meter.body();
  try {
    await runJobs(exchange, jobs, (job, chunk) => {
      meter.add(job, chunk);
      stream.send(format.events(job, chunk, usage));
      return stream.drained;
    });
    stream.send(format.lastEvents(meter.body()));
  } catch (error) {
    if (!stream.isOpen) throw error;
    stream.send(`data: ${JSON.stringify(toHttpError(error).body)}\n\n`);
  }
  stream.end();
}

/** Resolves to the response's body. */
async function collectGeneration(
  exchange: Exchange,
  jobs: readonly GenerationJob[],
  format: ResponseFormat,
): Promise<object> {
  const meter = new UsageMeter(jobs);
  const collectors = jobs.map(
    ({ request }) => new ResultCollector(request.promptTokenIds, request.sampling.n),
  );
  await runJobs(exchange, jobs, (job, chunk) => {
    meter.add(job, chunk);
    collectors[job].add(chunk);
    return null;
  });
  const results: GenerationResult[] = collectors.map((collector) => collector.result());
  return format.body(results, meter.body());
}

/**
 * Resolves when every choice of every job has ended. The first failure ends all jobs and is thrown; so does a client
 * that leaves.
 */
async function runJobs(exchange: Exchange, jobs: readonly GenerationJob[], sink: ChunkSink): Promise<void> {
  const { context, reply } = exchange;
  const { controller, close } = context.activity.openGeneration();
  const onClose = () => controller.abort(new NeedletailError('aborted', 'the client has left'));
  reply.raw.once('close', onClose);
  try {
    await Promise.all(
      jobs.map((job, i) => runJob(exchange, job, controller.signal, (chunk) => sink(i, chunk))),
    );
  } catch (error) {
    controller.abort(error);
    throw controller.signal.reason;
  } finally {
    reply.raw.off('close', onClose);
    close();
  }
}

/** Resolves when every choice of the job has ended; what the engine says afterwards is for the metrics alone. */
function runJob(
  { context, arrivalMs }: Exchange,
  job: GenerationJob,
  signal: AbortSignal,
  sink: (chunk: GenerationChunk) => Promise<void> | null,
): Promise<void> {
  const { llm, inFlight } = context;
  const request = inFlight.begin(job, arrivalMs);
  let numOpen = job.request.sampling.n;
  return new Promise((resolve, reject) => {
    const run = async () => {
      for await (const chunk of llm.run(job, signal)) {
        request.observe(chunk, performance.now());
        const ready = sink(chunk);
        if (ready !== null) await ready;
        if (chunk.finishReason !== null && --numOpen === 0) resolve();
      }
    };
    run().then(
      () => inFlight.end(request, null),
      (error: Error) => {
        inFlight.end(request, signal.aborted ? 'abort' : 'error');
        reject(error);
      },
    );
  });
}
