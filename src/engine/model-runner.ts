// Mechanism: builds the batch of a schedule, runs it on the device, and sorts the results by sequence.
import type { Executable } from '../device/device.ts';
import type { StepResult } from '../device/step.ts';
import { NeedletailError } from '../util/errors.ts';
import { BatchBuilder } from './batch.ts';
import type { TokenLogprobs } from './protocol.ts';
import type { Schedule } from './scheduler.ts';
import type { ScheduledSequence } from './sequence.ts';

/** What a step brought to one of its sequences. */
export interface SequenceResult {
  readonly scheduled: ScheduledSequence;
  /** The token drawn for each of `scheduled.choices`. */
  readonly tokenIds: readonly number[];
  /** One per token, if asked for. */
  readonly logprobs: readonly TokenLogprobs[] | null;
  /** Scores of the prompt tokens `(firstPromptRow, endPromptRow]`. */
  readonly promptLogprobs: readonly TokenLogprobs[];
  /** Why no token could be drawn; null if all is well. */
  readonly error: NeedletailError | null;
}

const NO_LOGPROBS: readonly TokenLogprobs[] = [];

export class ModelRunner {
  readonly #executable: Executable;
  readonly #builder: BatchBuilder;

  constructor(executable: Executable) {
    const { limits, blockSize, kvCacheGroups } = executable.plan;
    this.#executable = executable;
    this.#builder = new BatchBuilder({ ...limits, blockSize, numGroups: kvCacheGroups.length });
  }

  /** Calls of `run` that may be waited for at once. */
  get maxStepsInFlight(): number {
    return this.#executable.maxStepsInFlight;
  }

  /** Throws `device_failed` if the device broke; no later step can succeed then. */
  async run(schedule: Schedule): Promise<SequenceResult[]> {
    const result = await this.#runStep(schedule);
    return schedule.sequences.map((scheduled) => sequenceResult(scheduled, result));
  }

  async dispose(): Promise<void> {
    await this.#executable.dispose();
  }

  async #runStep(schedule: Schedule): Promise<StepResult> {
    try {
      return await this.#executable.run(this.#builder.build(schedule));
    } catch (cause) {
      throw new NeedletailError('device_failed', `the device failed: ${String(cause)}`, { cause });
    }
  }
}

function sequenceResult(scheduled: ScheduledSequence, result: StepResult): SequenceResult {
  const { sequence, firstRow, firstPromptRow, endPromptRow, choices } = scheduled;
  const { sampling } = sequence.request;
  const firstDraw = firstRow + endPromptRow - firstPromptRow;
  const endRow = firstDraw + choices.length;
  return {
    scheduled,
    tokenIds: Array.from(result.tokenIds.subarray(firstDraw, endRow)),
    logprobs: sampling.logprobs === null ? null : readLogprobs(result, firstDraw, endRow, sampling.logprobs),
    promptLogprobs:
      firstDraw === firstRow
        ? NO_LOGPROBS
        : readLogprobs(result, firstRow, firstDraw, sampling.promptLogprobs!),
    error: rowError(result.rowStatus, firstRow, endRow),
  };
}

function readLogprobs(result: StepResult, firstRow: number, endRow: number, numTop: number): TokenLogprobs[] {
  const logprobs: TokenLogprobs[] = [];
  for (let row = firstRow; row < endRow; row++)
    logprobs.push({
      tokenId: result.tokenIds[row],
      logprob: result.logprobs[row],
      rank: result.ranks[row],
      top: readTop(result, row, numTop),
    });
  return logprobs;
}

function readTop(result: StepResult, row: number, numTop: number): { tokenId: number; logprob: number }[] {
  const top = [];
  for (let i = row * result.topCount; i < row * result.topCount + numTop; i++)
    if (result.topIds[i] >= 0) top.push({ tokenId: result.topIds[i], logprob: result.topLogprobs[i] });
  return top;
}

function rowError(rowStatus: Uint8Array, firstRow: number, endRow: number): NeedletailError | null {
  for (let row = firstRow; row < endRow; row++) {
    if (rowStatus[row] === 1)
      return new NeedletailError(
        'device_failed',
        'the model computed NaN for this request; nothing can be drawn',
      );
    if (rowStatus[row] === 2)
      return new NeedletailError('invalid_request', 'the logit biases ban every token', {
        param: 'logit_bias',
      });
  }
  return null;
}
