// An LLMEngine over the toy device, with a clock that a test turns by hand.
import { BlockManager } from '../../src/engine/block-manager.ts';
import type { EngineConfig } from '../../src/engine/config.ts';
import { LLMEngine } from '../../src/engine/llm-engine.ts';
import { ModelRunner } from '../../src/engine/model-runner.ts';
import type { EngineOutput, EngineRequest } from '../../src/engine/protocol.ts';
import { GREEDY, type SamplingParams } from '../../src/engine/sampling-params.ts';
import { TOY_DEFAULTS, TOY_VOCAB_SIZE, ToyExecutable, type ToyOptions } from './toy-executable.ts';

export interface ToyEngineOptions extends ToyOptions {
  readonly maxModelLen: number;
  readonly enablePrefixCaching: boolean;
  readonly batchingPolicy: EngineConfig['batchingPolicy'];
  readonly schedulingPolicy: EngineConfig['schedulingPolicy'];
  readonly maxNumQueuedReqs: number;
}

export interface ToyEngine {
  readonly engine: LLMEngine;
  readonly executable: ToyExecutable;
  readonly clock: { nowMs: number; now(): number };
}

export function createToyEngine(overrides: Partial<ToyEngineOptions> = {}): ToyEngine {
  const options: ToyEngineOptions = {
    ...TOY_DEFAULTS,
    maxModelLen: 64,
    enablePrefixCaching: true,
    batchingPolicy: 'max-utilization',
    schedulingPolicy: 'fcfs',
    maxNumQueuedReqs: 1000,
    ...overrides,
  };
  const executable = new ToyExecutable(options);
  const { numBlocks, blockSize, windows } = options;
  const clock = {
    nowMs: 0,
    now() {
      return this.nowMs;
    },
  };
  const engine = new LLMEngine({
    runner: new ModelRunner(executable),
    info: {
      maxModelLen: options.maxModelLen,
      vocabSize: TOY_VOCAB_SIZE,
      maxNumSeqs: options.maxNumSeqs,
      maxNumBatchedTokens: options.maxNumBatchedTokens,
      blockSize,
      numBlocks,
      device: 'toy',
      recipe: 'float32',
      quality: null,
      shortenedFrom: null,
    },
    blocks: new BlockManager({
      blockSize,
      groups: windows.map((window) => ({ numBlocks, window })),
      enablePrefixCaching: options.enablePrefixCaching,
      hashSeed: 'toy',
    }),
    scheduling: options,
    maxNumPromptRows: options.maxNumPromptRows,
    clock,
  });
  return { engine, executable, clock };
}

export function toyRequest(
  requestId: string,
  prompt: readonly number[],
  sampling: Partial<SamplingParams> = {},
  rest: Partial<EngineRequest> = {},
): EngineRequest {
  return {
    requestId,
    promptTokenIds: Int32Array.from(prompt),
    sampling: { ...GREEDY, ...sampling },
    priority: 0,
    timeoutMs: null,
    cacheSalt: '',
    ...rest,
  };
}

/** Everything that one choice got. */
export interface Collected {
  readonly tokenIds: number[];
  readonly outputs: EngineOutput[];
  last: EngineOutput;
}

/** Outputs by `requestId/index`. */
export type Collection = Map<string, Collected>;

export function collect(outputs: readonly EngineOutput[], into: Collection = new Map()): Collection {
  for (const output of outputs) {
    const key = `${output.requestId}/${output.index}`;
    const entry = into.get(key) ?? { tokenIds: [], outputs: [], last: output };
    if (entry.outputs.length > 0 && entry.last.finishReason !== null)
      throw new Error(`${key} got an output after its last one`);
    entry.tokenIds.push(...output.tokenIds);
    entry.outputs.push(output);
    entry.last = output;
    into.set(key, entry);
  }
  return into;
}

/** Steps until there is nothing left to do. */
export async function runToEnd(engine: LLMEngine, into: Collection = new Map()): Promise<Collection> {
  for (let numSteps = 0; engine.hasWork; numSteps++) {
    if (numSteps > 100_000) throw new Error('the engine does not come to an end');
    collect(await engine.step(), into);
    engine.checkIntegrity();
  }
  return into;
}
