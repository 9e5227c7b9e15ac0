// Offline throughput: three times as many requests as run at once, all queued at the start, random tokens, no end token.
import type { CudaDevice } from '../../device/cuda/cuda-device.ts';
import type { BatchingPolicy } from '../../engine/config.ts';
import type { LLMEngine } from '../../engine/llm-engine.ts';
import { runThroughput, warmUp, type ThroughputResult } from '../offline.ts';
import { traceLengths, withRandomPrompts, type BenchRequest, type RequestLengths } from '../workload.ts';
import { plainFigure, type Figure } from './figure.ts';
import { loadPresetEngine, type ModelChoice } from './model.ts';

export interface OfflineRow {
  readonly name: string;
  readonly inputLen: number;
  readonly outputLen: number;
  /** Sequences at once. */
  readonly maxNumSeqs: number;
  readonly rival: string;
}

const GENERATIONS = 3;
const MAX_NUM_BATCHED_TOKENS = 8192;

export async function measureOffline(
  device: CudaDevice,
  model: ModelChoice,
  row: OfflineRow,
  maxSeconds: number,
): Promise<Figure> {
  const { name, inputLen, outputLen, maxNumSeqs, rival } = row;
  const engine = await loadPresetEngine(device, model, {
    maxNumSeqs,
    maxNumBatchedTokens: Math.max(MAX_NUM_BATCHED_TOKENS, maxNumSeqs),
    maxModelLen: inputLen + outputLen,
  });
  try {
    const lengths = staggered({ inputTokens: inputLen, outputTokens: outputLen }, maxNumSeqs);
    const result = await run(engine, withRandomPrompts(lengths, engine.info.vocabSize, 0), maxSeconds);
    const figure = plainFigure(
      name,
      `${result.maxRunning} in flight, whole run ${result.outputTokensPerSecond.toFixed(0)}` +
        (result.isCut ? `, cut after ${result.seconds.toFixed(0)} s` : ''),
      result.steadyOutputTokensPerSecond ?? result.outputTokensPerSecond,
      result.steadyOutputTokensPerSecond === null ? 'tok/s (whole run)' : 'tok/s',
      result,
    );
    return { ...figure, rival };
  } finally {
    await engine.close();
  }
}

/** The lengths of the first generation are spread evenly, so that ever after some end and some begin in every step. */
function staggered(lengths: RequestLengths, numFirst: number): RequestLengths[] {
  return Array.from({ length: GENERATIONS * numFirst }, (_, i) => ({
    ...lengths,
    outputTokens:
      i < numFirst ? Math.ceil(((i + 1) / numFirst) * lengths.outputTokens) : lengths.outputTokens,
  }));
}

async function run(
  engine: LLMEngine,
  requests: readonly BenchRequest[],
  maxSeconds: number,
): Promise<ThroughputResult> {
  await warmUp(engine, requests);
  return runThroughput(engine, requests, maxSeconds);
}

const CHAT_SLOTS = 64;
const CHAT_REQUESTS = 4 * CHAT_SLOTS;
const MAX_CHAT_INPUT = 2048;
const MAX_CHAT_OUTPUT = 1024;

/** Lengths of a real chat trace in `CHAT_SLOTS` slots: in-flight batching against static batches that drop finished rows. */
export async function measureInFlight(
  device: CudaDevice,
  model: ModelChoice,
  name: string,
  trace: readonly RequestLengths[],
): Promise<Figure> {
  const lengths = traceLengths(trace, {
    numPrompts: CHAT_REQUESTS,
    seed: 0,
    inputLen: null,
    maxInputLen: MAX_CHAT_INPUT,
    maxOutputLen: MAX_CHAT_OUTPUT,
  });
  const results: Partial<Record<BatchingPolicy, ThroughputResult>> = {};
  for (const batchingPolicy of ['static-drop-finished', 'max-utilization'] as const)
    results[batchingPolicy] = await measurePolicy(device, model, batchingPolicy, lengths);
  const speed = (policy: BatchingPolicy): number => results[policy]!.outputTokensPerSecond;
  const ratio = speed('max-utilization') / speed('static-drop-finished');
  const what = `in-flight ${speed('max-utilization').toFixed(0)} tok/s over static ${speed('static-drop-finished').toFixed(0)}`;
  return plainFigure(name, `${what}, ${CHAT_SLOTS} slots, ${CHAT_REQUESTS} chats`, ratio, 'x', results);
}

async function measurePolicy(
  device: CudaDevice,
  model: ModelChoice,
  batchingPolicy: BatchingPolicy,
  lengths: readonly RequestLengths[],
): Promise<ThroughputResult> {
  const engine = await loadPresetEngine(device, model, {
    batchingPolicy,
    maxNumSeqs: CHAT_SLOTS,
    maxNumBatchedTokens: MAX_CHAT_INPUT,
    maxModelLen: MAX_CHAT_INPUT + MAX_CHAT_OUTPUT,
  });
  try {
    return await run(engine, withRandomPrompts(lengths, engine.info.vocabSize, 0), Infinity);
  } finally {
    await engine.close();
  }
}
