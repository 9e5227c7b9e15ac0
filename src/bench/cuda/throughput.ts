// Offline throughput: three times as many requests as run at once, all queued at the start, the first of all ages; random tokens,
// no end token.
import type { CudaDevice } from '../../device/cuda/cuda-device.ts';
import type { BatchingPolicy } from '../../engine/config.ts';
import { runThroughput, warmUp, type ThroughputResult } from '../offline.ts';
import { lengthsUnderWay, traceLengths, withRandomPrompts, type RequestLengths } from '../workload.ts';
import { plainFigure, type Figure } from './figure.ts';
import { busyShare, withTimer } from './busy.ts';
import { compilePreset, loadPresetEngine, type ModelChoice } from './model.ts';
import type { Roofs } from './roofs.ts';
import { leastSeconds, stepWork, utilization, type StepShape } from './work.ts';

export interface OfflineRow {
  readonly name: string;
  readonly inputLen: number;
  readonly outputLen: number;
  /** Sequences at once. */
  readonly maxNumSeqs: number;
  readonly rival: string | null;
}

const GENERATIONS = 3;
const MAX_NUM_BATCHED_TOKENS = 8192;

export async function measureOffline(
  device: CudaDevice,
  model: ModelChoice,
  row: OfflineRow,
  { roofs, maxSeconds }: { readonly roofs: Roofs; readonly maxSeconds: number },
): Promise<Figure> {
  const { name, inputLen, outputLen, maxNumSeqs, rival } = row;
  const limits = {
    maxNumSeqs,
    maxNumBatchedTokens: Math.max(MAX_NUM_BATCHED_TOKENS, maxNumSeqs),
    maxModelLen: inputLen + outputLen,
  };
  const { plan } = await compilePreset(device, model, limits);
  const engine = await loadPresetEngine(device, model, limits);
  try {
    const each = { inputTokens: inputLen, outputTokens: outputLen };
    const others = Array<RequestLengths>((GENERATIONS - 1) * maxNumSeqs).fill(each);
    const lengths = [...lengthsUnderWay(each, limits), ...others];
    const requests = withRandomPrompts(lengths, engine.info.vocabSize, 0);
    await warmUp(engine, requests);
    const { result, times } = await withTimer(device, () =>
      runThroughput(engine, requests, { maxSeconds, isUnderWay: true }),
    );
    const { steady, outputTokensPerSecond: whole, maxRunning } = result;
    const tokensPerSecond = steady?.outputTokensPerSecond ?? whole;
    const stepWorkload = steadyStep(row, maxRunning);
    const work = stepWork(plan, stepWorkload);
    const seconds = maxRunning / tokensPerSecond;
    return {
      row: name,
      what:
        `${maxRunning} in flight, steady for ${(steady?.generations ?? 0).toFixed(2)} generations, ` +
        `whole run ${whole.toFixed(0)}, GPU busy ${(100 * busyShare(times)).toFixed(1)} %` +
        (result.isCut ? `, cut after ${result.seconds.toFixed(0)} s` : ''),
      value: tokensPerSecond,
      unit: steady === null ? 'tok/s (whole run)' : 'tok/s',
      limit: maxRunning / leastSeconds(work, roofs),
      rival,
      ...utilization(work, seconds, roofs),
      detail: { ...result, busyShare: busyShare(times) },
    };
  } finally {
    await engine.close();
  }
}

/** What a step computes once sequences of all ages run: a token of each, and the prompts of those that begin. */
function steadyStep({ inputLen, outputLen }: OfflineRow, numRunning: number): StepShape {
  const decode = { numSeqs: numRunning, numTokens: 1, contextLen: inputLen + outputLen / 2 };
  const prefill = { numSeqs: numRunning / outputLen, numTokens: inputLen, contextLen: inputLen };
  return { seqs: [decode, prefill] };
}

const CHAT_SLOTS = 64;
const CHAT_REQUESTS = 6 * CHAT_SLOTS;
const MAX_CHAT_INPUT = 2048;
const MAX_CHAT_OUTPUT = 960;

export interface ChatRow {
  readonly name: string;
  /** Of every prompt, so that batching alone is compared; null: the trace's, whose cost both ways of batching share. */
  readonly inputLen: number | null;
}

/** Lengths of a real chat trace in `CHAT_SLOTS` slots: in-flight batching against static batches that drop finished rows. */
export async function measureInFlight(
  device: CudaDevice,
  model: ModelChoice,
  { name, inputLen }: ChatRow,
  trace: readonly RequestLengths[],
): Promise<Figure> {
  const lengths = traceLengths(trace, {
    numPrompts: CHAT_REQUESTS,
    seed: 0,
    inputLen,
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
    const requests = withRandomPrompts(lengths, engine.info.vocabSize, 0);
    await warmUp(engine, requests);
    return await runThroughput(engine, requests);
  } finally {
    await engine.close();
  }
}
