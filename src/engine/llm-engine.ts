// The engine: requests in, tokens out, one step at a time.
import { isNeedletailError, NeedletailError } from '../util/errors.ts';
import type { BlockManager } from './block-manager.ts';
import { checkRequest, duplicateRequest } from './check-request.ts';
import type { Clock } from './clock.ts';
import type { EngineConfig } from './config.ts';
import type { ModelRunner, SequenceResult } from './model-runner.ts';
import type {
  EngineInfo,
  EngineOutput,
  EngineRequest,
  EngineStats,
  FinishReason,
  TokenLogprobs,
} from './protocol.ts';
import { RequestState } from './request-state.ts';
import { Scheduler, type Schedule } from './scheduler.ts';
import { Sequence } from './sequence.ts';
import { checkStop } from './stop-checker.ts';

export interface LLMEngineParts {
  readonly runner: ModelRunner;
  readonly info: EngineInfo;
  readonly blocks: BlockManager;
  readonly scheduling: Pick<EngineConfig, 'batchingPolicy' | 'schedulingPolicy' | 'maxNumQueuedReqs'>;
  /** Prompt tokens per step whose log-probabilities may be computed. */
  readonly maxNumPromptRows: number;
  readonly clock: Clock;
  /** Called by `close`, after the runner's memory is freed. */
  readonly onClose?: () => Promise<void>;
}

interface Ending {
  readonly finishReason: FinishReason;
  readonly stopTokenId?: number;
  readonly error?: NeedletailError;
}

/** A step that the device computes. */
interface StepUnderWay {
  readonly schedule: Schedule;
  readonly results: Promise<readonly SequenceResult[]>;
}

interface InFlight {
  readonly state: RequestState;
  /** Choices, or their common prompt, that have not finished. */
  readonly sequences: Set<Sequence>;
}

/**
 * In-flight batching over one executable. `add` and `abort` may be called at any time, also while a step runs; `step`
 * must not be called again before it has resolved. Where the device allows it, the next step is under way before the
 * outputs of the last are handed out, so that the device never waits for what happens to them. After a device failure every request has ended with
 * `device_failed`, and `add` throws it.
 */
export class LLMEngine {
  readonly info: EngineInfo;
  readonly #parts: LLMEngineParts;
  readonly #blocks: BlockManager;
  readonly #scheduler: Scheduler;
  readonly #requests = new Map<string, InFlight>();
  readonly #withDeadline = new Set<InFlight>();
  /** Oldest first. */
  readonly #underWay: StepUnderWay[] = [];
  #outputs: EngineOutput[] = [];
  #failure: NeedletailError | null = null;
  #numArrivals = 0;
  #numSteps = 0;
  #promptTokens = 0;
  #generatedTokens = 0;
  #lastStepTokens = 0;

  constructor(parts: LLMEngineParts) {
    const { batchingPolicy, schedulingPolicy, maxNumQueuedReqs } = parts.scheduling;
    this.info = parts.info;
    this.#parts = parts;
    this.#blocks = parts.blocks;
    this.#scheduler = new Scheduler(
      {
        batchingPolicy,
        preemptByPriority: schedulingPolicy === 'priority' && batchingPolicy === 'max-utilization',
        maxNumSeqs: parts.info.maxNumSeqs,
        maxNumBatchedTokens: parts.info.maxNumBatchedTokens,
        maxNumPromptRows: parts.maxNumPromptRows,
        maxNumQueuedReqs,
      },
      parts.blocks,
    );
  }

  /** Whether `step` has something to do or to hand out. */
  get hasWork(): boolean {
    const hasSteps = this.#scheduler.hasWork || this.#underWay.length > 0;
    return (this.#failure === null && hasSteps) || this.#outputs.length > 0;
  }

  /** Why the engine can run no more steps; null while it can. */
  get failure(): NeedletailError | null {
    return this.#failure;
  }

  /** Throws a `NeedletailError` if the request is wrong, could never fit, or the queue is full. */
  add(request: EngineRequest): void {
    if (this.#failure) throw this.#failure;
    if (this.#requests.has(request.requestId)) throw duplicateRequest(request.requestId);
    checkRequest(request, this.info);
    const isFcfs = this.#parts.scheduling.schedulingPolicy === 'fcfs';
    const ranked = isFcfs ? { ...request, priority: 0 } : request;
    const state = new RequestState(ranked, this.#numArrivals++, this.#parts.clock.now());
    const sequence = new Sequence(state, request.promptTokenIds, {
      maxModelLen: this.info.maxModelLen,
      blocks: this.#blocks.open(state.cacheSalt),
    });
    this.#scheduler.add(sequence);
    const inFlight = { state, sequences: new Set([sequence]) };
    this.#requests.set(state.id, inFlight);
    if (state.deadlineMs < Infinity) this.#withDeadline.add(inFlight);
  }

  /** Ends a choice, or all of them, at once; unknown ids are ignored, for the request may just have finished. */
  abort(requestId: string, index?: number): void {
    const inFlight = this.#requests.get(requestId);
    if (!inFlight) return;
    for (const sequence of [...inFlight.sequences])
      for (const choice of sequence.choices)
        if (index === undefined || choice === index)
          this.#endChoice(inFlight, sequence, choice, { finishReason: 'abort' });
  }

  /** Waits for the oldest step under way, having started those that may follow it. Resolves with what has come since. */
  async step(): Promise<EngineOutput[]> {
    try {
      this.#expire();
      this.#startSteps();
      const oldest = this.#underWay.shift();
      if (oldest) this.#postprocess(oldest.schedule, await oldest.results);
    } catch (error) {
      this.#failAll(error);
    }
    return this.#takeOutputs();
  }

  stats(): EngineStats {
    return {
      numRunning: this.#scheduler.numRunning,
      numWaiting: this.#scheduler.numWaiting,
      ...this.#blocks.totals(),
      blockSize: this.#blocks.blockSize,
      numSteps: this.#numSteps,
      numPreemptions: this.#scheduler.numPreemptions,
      promptTokens: this.#promptTokens,
      generatedTokens: this.#generatedTokens,
      prefixCacheQueries: this.#blocks.numQueriedTokens,
      prefixCacheHits: this.#blocks.numHitTokens,
      lastStepTokens: this.#lastStepTokens,
    };
  }

  /** Throws unless every KV block is either free or held by a living sequence. */
  checkIntegrity(): void {
    this.#scheduler.checkIntegrity();
  }

  /** Frees the device's memory. Requests in flight are dropped; call it after `step` has resolved. */
  async close(): Promise<void> {
    this.#failure = new NeedletailError('shutting_down', 'the engine is closed');
    await this.#parts.runner.dispose();
    await this.#parts.onClose?.();
  }

  #expire(): void {
    if (this.#withDeadline.size === 0) return;
    const nowMs = this.#parts.clock.now();
    for (const inFlight of this.#withDeadline) {
      if (inFlight.state.deadlineMs > nowMs) continue;
      const limitMs = inFlight.state.deadlineMs - inFlight.state.arrivalMs;
      this.#fail(
        inFlight,
        new NeedletailError('deadline_exceeded', `the request took longer than ${limitMs} ms`),
      );
    }
  }

  #startSteps(): void {
    const { runner } = this.#parts;
    while (this.#underWay.length < runner.maxStepsInFlight) {
      const schedule = this.#schedule();
      if (schedule.numTokens === 0) return;
      const results = runner.run(schedule);
      // Whoever waits for it hears of a failure; after one nobody waits for the others.
      results.catch(() => undefined);
      this.#underWay.push({ schedule, results });
    }
  }

  #schedule(): Schedule {
    const schedule = this.#scheduler.schedule();
    const nowMs = this.#parts.clock.now();
    for (const { sequence, start } of schedule.sequences)
      if (sequence.request.markScheduled(nowMs, start)) this.#promptTokens += sequence.numPromptTokens;
    return schedule;
  }

  #postprocess(schedule: Schedule, results: readonly SequenceResult[]): void {
    this.#numSteps++;
    this.#lastStepTokens = schedule.numTokens;
    const nowMs = this.#parts.clock.now();
    for (const result of results) {
      const { sequence } = result.scheduled;
      // Not of one that was aborted or preempted while the step ran, or ended by the step before.
      if (!this.#scheduler.advance(result.scheduled)) continue;
      const inFlight = this.#requests.get(sequence.request.id)!;
      if (result.error) this.#fail(inFlight, result.error);
      else this.#extend(inFlight, sequence, result, nowMs);
    }
  }

  #extend(inFlight: InFlight, sequence: Sequence, result: SequenceResult, nowMs: number): void {
    inFlight.state.addPromptLogprobs(result.promptLogprobs);
    if (sequence.numUncomputed > 0) return;
    inFlight.state.markPrefilled(nowMs);
    if (!sequence.wantsToken) {
      for (const choice of sequence.choices)
        this.#endChoice(inFlight, sequence, choice, { finishReason: 'length' });
      return;
    }
    const { choices } = result.scheduled;
    const streams = choices.map((choice) => this.#streamOf(inFlight, sequence, choice));
    streams.forEach((stream, i) => {
      if (stream) this.#append(inFlight, stream, result.tokenIds[i], result.logprobs?.[i] ?? null);
    });
  }

  /** The sequence that goes on with a choice: its own after the prompt; null if it was aborted meanwhile. */
  #streamOf(inFlight: InFlight, sequence: Sequence, choice: number): Sequence | null {
    if (!sequence.choices.includes(choice)) return null;
    if (sequence.choices.length === 1) return sequence;
    sequence.choices = sequence.choices.filter((other) => other !== choice);
    const child = this.#scheduler.fork(sequence, choice);
    inFlight.sequences.add(child);
    return child;
  }

  #append(inFlight: InFlight, sequence: Sequence, tokenId: number, logprobs: TokenLogprobs | null): void {
    sequence.append(tokenId);
    this.#generatedTokens++;
    const finishReason = checkStop(sequence);
    const ending =
      finishReason === 'stop' ? { finishReason, stopTokenId: tokenId } : finishReason && { finishReason };
    this.#publish(inFlight, sequence.choices[0], [tokenId], logprobs && [logprobs], ending);
    if (ending) this.#retire(inFlight, sequence);
  }

  /** Ends a choice without a further token. */
  #endChoice(inFlight: InFlight, sequence: Sequence, choice: number, ending: Ending): void {
    this.#publish(inFlight, choice, [], null, ending);
    if (sequence.choices.length > 1) sequence.choices = sequence.choices.filter((other) => other !== choice);
    else this.#retire(inFlight, sequence, ending.finishReason !== 'length');
  }

  #fail(inFlight: InFlight, error: NeedletailError): void {
    for (const sequence of [...inFlight.sequences])
      for (const choice of sequence.choices)
        this.#endChoice(inFlight, sequence, choice, { finishReason: 'error', error });
  }

  /** Nothing can be trusted after a step went wrong: every request ends, and no other is taken. */
  #failAll(error: unknown): void {
    this.#underWay.length = 0;
    this.#failure = isNeedletailError(error)
      ? error
      : new NeedletailError('device_failed', `the engine failed: ${String(error)}`, { cause: error });
    for (const inFlight of this.#requests.values()) this.#fail(inFlight, this.#failure);
  }

  /** `early`: the sequence leaves even a static batch. */
  #retire(inFlight: InFlight, sequence: Sequence, early = false): void {
    if (early) this.#scheduler.remove(sequence);
    else this.#scheduler.finish(sequence);
    inFlight.sequences.delete(sequence);
    if (inFlight.sequences.size > 0) return;
    this.#requests.delete(inFlight.state.id);
    this.#withDeadline.delete(inFlight);
  }

  #publish(
    { state }: InFlight,
    index: number,
    tokenIds: readonly number[],
    logprobs: readonly TokenLogprobs[] | null,
    ending: Ending | null,
  ): void {
    const { finishReason = null, stopTokenId = null, error } = ending ?? {};
    this.#outputs.push({
      requestId: state.id,
      index,
      tokenIds,
      logprobs,
      promptLogprobs: state.takePromptLogprobs(),
      finishReason,
      stopTokenId,
      error: error ? { code: error.code, message: error.message } : null,
      numCachedTokens: state.numCachedTokens,
      timing: ending && state.timing(this.#parts.clock.now()),
    });
  }

  #takeOutputs(): EngineOutput[] {
    const outputs = this.#outputs;
    this.#outputs = [];
    return outputs;
  }
}
