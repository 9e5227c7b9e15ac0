// What steps send to the parent, in one message: the engine's statistics after each of them and the choices' new tokens.
import type { ErrorCode } from '../../util/errors.ts';
import type { EngineOutput, EngineStats, FinishReason, RequestTiming, TokenLogprobs } from '../protocol.ts';
import { type FrameWriter, PayloadReader } from './frames.ts';
import { MESSAGE } from './messages.ts';

export interface StepMessage {
  /** After each step since the last message. */
  readonly stats: readonly EngineStats[];
  readonly outputs: readonly EngineOutput[];
}

const STATS_FIELDS = [
  'numRunning',
  'numWaiting',
  'numBlocks',
  'numFreeBlocks',
  'blockSize',
  'numSteps',
  'numPreemptions',
  'promptTokens',
  'generatedTokens',
  'prefixCacheQueries',
  'prefixCacheHits',
  'lastStepTokens',
] as const satisfies readonly (keyof EngineStats)[];

/** Of an engine that is not there. */
export const NO_STATS = Object.fromEntries(STATS_FIELDS.map((field) => [field, 0])) as unknown as EngineStats;

const FINISH_REASONS: readonly (FinishReason | null)[] = [null, 'stop', 'length', 'abort', 'error'];
const NO_TOKEN = -1;

/** Bits that say which optional fields follow. */
const HAS_LOGPROBS = 1;
const HAS_PROMPT_LOGPROBS = 2;
const HAS_ERROR = 4;
const HAS_TIMING = 8;

/** In the engine's process a request's id is its handle. */
export function writeStep(writer: FrameWriter, { stats, outputs }: StepMessage): Buffer {
  writer.begin(MESSAGE.step);
  writer.uint32(stats.length);
  for (const step of stats) for (const field of STATS_FIELDS) writer.float64(step[field]);
  writer.uint32(outputs.length);
  for (const output of outputs) writeOutput(writer, output);
  return writer.end();
}

/** @param requestIds of all handles in flight */
export function readStep(payload: Buffer, requestIds: ReadonlyMap<number, string>): StepMessage {
  const reader = new PayloadReader(payload);
  const stats = Array.from({ length: reader.uint32() }, () => readStats(reader));
  const outputs: EngineOutput[] = [];
  for (let left = reader.uint32(); left > 0; left--) outputs.push(readOutput(reader, requestIds));
  return { stats, outputs };
}

function readStats(reader: PayloadReader): EngineStats {
  const stats: Record<keyof EngineStats, number> = { ...NO_STATS };
  for (const field of STATS_FIELDS) stats[field] = reader.float64();
  return stats;
}

function writeOutput(writer: FrameWriter, output: EngineOutput): void {
  const { logprobs, promptLogprobs, error, timing } = output;
  writer.uint32(Number(output.requestId)).uint32(output.index).int32s(output.tokenIds);
  writer.uint8(FINISH_REASONS.indexOf(output.finishReason)).int32(output.stopTokenId ?? NO_TOKEN);
  writer.uint32(output.numCachedTokens);
  writer.uint8(
    (logprobs ? HAS_LOGPROBS : 0) |
      (promptLogprobs ? HAS_PROMPT_LOGPROBS : 0) |
      (error ? HAS_ERROR : 0) |
      (timing ? HAS_TIMING : 0),
  );
  if (logprobs) writeLogprobs(writer, logprobs);
  // Only the first prompt token has no log-probabilities.
  if (promptLogprobs) writeLogprobs(writer, promptLogprobs.slice(1) as TokenLogprobs[]);
  if (error) writer.string(error.code).string(error.message);
  if (timing) writeTiming(writer, timing);
}

function readOutput(reader: PayloadReader, requestIds: ReadonlyMap<number, string>): EngineOutput {
  const requestId = requestIds.get(reader.uint32())!;
  const index = reader.uint32();
  const tokenIds: number[] = [];
  for (let left = reader.uint32(); left > 0; left--) tokenIds.push(reader.int32());
  const finishReason = FINISH_REASONS[reader.uint8()]!;
  const stopTokenId = reader.int32();
  const numCachedTokens = reader.uint32();
  const flags = reader.uint8();
  return {
    requestId,
    index,
    tokenIds,
    logprobs: flags & HAS_LOGPROBS ? readLogprobs(reader) : null,
    promptLogprobs: flags & HAS_PROMPT_LOGPROBS ? [null, ...readLogprobs(reader)] : null,
    finishReason,
    stopTokenId: stopTokenId === NO_TOKEN ? null : stopTokenId,
    error: flags & HAS_ERROR ? { code: reader.string() as ErrorCode, message: reader.string() } : null,
    numCachedTokens,
    timing: flags & HAS_TIMING ? readTiming(reader) : null,
  };
}

function writeLogprobs(writer: FrameWriter, logprobs: readonly TokenLogprobs[]): void {
  writer.uint32(logprobs.length);
  for (const { tokenId, logprob, rank, top } of logprobs) {
    writer.int32(tokenId).float32(logprob).int32(rank).uint32(top.length);
    for (const candidate of top) writer.int32(candidate.tokenId).float32(candidate.logprob);
  }
}

function readLogprobs(reader: PayloadReader): TokenLogprobs[] {
  return Array.from({ length: reader.uint32() }, () => ({
    tokenId: reader.int32(),
    logprob: reader.float32(),
    rank: reader.int32(),
    top: Array.from({ length: reader.uint32() }, () => ({
      tokenId: reader.int32(),
      logprob: reader.float32(),
    })),
  }));
}

function writeTiming(writer: FrameWriter, timing: RequestTiming): void {
  writer.float64(timing.queuedMs).float64(timing.prefillMs).float64(timing.decodeMs);
  writer.uint32(timing.numPreemptions);
}

function readTiming(reader: PayloadReader): RequestTiming {
  return {
    queuedMs: reader.float64(),
    prefillMs: reader.float64(),
    decodeMs: reader.float64(),
    numPreemptions: reader.uint32(),
  };
}
