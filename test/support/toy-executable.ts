// A device without a model: its next token is a hash of the whole visible context, read back through block tables and
// slots, so that any mistake in tables, slots, copies or reuse changes what comes out. `toyGenerate` computes the same
// without a cache.
import type { Plan } from '../../src/compiler/plan.ts';
import { DeviceError, type Executable } from '../../src/device/device.ts';
import type { SamplingBatch, StepBatch, StepResult } from '../../src/device/step.ts';
import { GREEDY, type SamplingParams } from '../../src/engine/sampling-params.ts';

export const TOY_VOCAB_SIZE = 97;

export interface ToyOptions {
  readonly numBlocks: number;
  readonly blockSize: number;
  readonly maxNumBatchedTokens: number;
  readonly maxNumSeqs: number;
  readonly maxNumPromptRows: number;
  /** One cache group per entry. */
  readonly windows: readonly (number | null)[];
  readonly maxStepsInFlight: number;
}

export const TOY_DEFAULTS: ToyOptions = {
  numBlocks: 64,
  blockSize: 4,
  maxNumBatchedTokens: 32,
  maxNumSeqs: 8,
  maxNumPromptRows: 8,
  windows: [null],
  maxStepsInFlight: 1,
};

/** What a step may do beside running well. */
export type Mishap = 'fail' | 'nan' | null;

export class ToyExecutable implements Executable {
  readonly plan: Plan;
  readonly memory = { weights: 0, kvCache: 0, activations: 0, workspace: 0, steps: 0 };
  readonly options: ToyOptions;
  readonly steps: { readonly numTokens: number; readonly numSeqs: number; readonly numLogitRows: number }[] =
    [];
  isDisposed = false;
  /** Called before each step; a test may wait in it, or make the step go wrong. */
  onStep: (step: StepBatch) => Promise<Mishap> | Mishap = () => null;
  readonly #caches: readonly Int32Array[];
  /** Tokens that steps took from the step before them. */
  numTakenOver = 0;
  /** What the last step drew. */
  #drawn: Int32Array = new Int32Array(0);
  #lastStep: Promise<unknown> = Promise.resolve();
  #numInFlight = 0;

  constructor(options: Partial<ToyOptions> = {}) {
    this.options = { ...TOY_DEFAULTS, ...options };
    const { numBlocks, blockSize, windows } = this.options;
    this.plan = toyPlan(this.options);
    // Never-written slots hold something that no context contains.
    this.#caches = windows.map(() => new Int32Array(numBlocks * blockSize).fill(0x5eed));
  }

  get maxStepsInFlight(): number {
    return this.options.maxStepsInFlight;
  }

  async run(step: StepBatch): Promise<StepResult> {
    assert(++this.#numInFlight <= this.maxStepsInFlight, 'steps in flight');
    // The batch is the caller's again as soon as the call returns.
    const own = structuredClone(step);
    const running = this.#lastStep.then(() => this.#runStep(own));
    this.#lastStep = running.catch(() => undefined);
    try {
      return await running;
    } finally {
      this.#numInFlight--;
    }
  }

  async #runStep(step: StepBatch): Promise<StepResult> {
    const mishap = await this.onStep(step);
    if (mishap === 'fail') throw new DeviceError('the toy broke');
    this.#check(step);
    this.steps.push({
      numTokens: step.numTokens,
      numSeqs: step.numSeqs,
      numLogitRows: step.logitRows.length,
    });
    this.#copyBlocks(step.blockCopies);
    this.#resolveTokens(step);
    const result = sampleRows(step, this.#forward(step), mishap === 'nan');
    this.#drawn = result.tokenIds;
    return result;
  }

  /** Tokens that the step before drew. */
  #resolveTokens({ tokenIds }: StepBatch): void {
    tokenIds.forEach((id, i) => {
      if (id >= 0) return;
      assert(this.maxStepsInFlight > 1 && -1 - id < this.#drawn.length, 'a row of the step before');
      tokenIds[i] = this.#drawn[-1 - id];
      this.numTakenOver++;
    });
  }

  async dispose(): Promise<void> {
    this.isDisposed = true;
  }

  #check(step: StepBatch): void {
    const { maxNumBatchedTokens, maxNumSeqs, maxNumLogitRows } = this.plan.limits;
    assert(step.numTokens > 0 && step.numTokens <= maxNumBatchedTokens, 'token budget');
    assert(step.numSeqs <= maxNumSeqs && step.logitRows.length <= maxNumLogitRows, 'sequence and row limits');
    assert(step.cuSeqlensQ[step.numSeqs] === step.numTokens, 'cuSeqlensQ ends at numTokens');
    assert(
      step.logitRows.every((row, i) => i === 0 || row >= step.logitRows[i - 1]),
      'logit rows ascend',
    );
    for (const { slotMapping } of step.groups)
      assert(new Set(slotMapping).size === step.numTokens, 'no slot is written twice');
  }

  #copyBlocks(copies: Int32Array): void {
    const { blockSize } = this.options;
    for (let i = 0; i < copies.length; i += 3) {
      const [group, source, destination] = copies.subarray(i, i + 3) as unknown as [number, number, number];
      const cache = this.#caches[group];
      cache.copyWithin(destination * blockSize, source * blockSize, (source + 1) * blockSize);
    }
  }

  /** The context hash at every token of the step. */
  #forward(step: StepBatch): Uint32Array {
    const hashes = new Uint32Array(step.numTokens);
    for (let s = 0; s < step.numSeqs; s++) {
      const first = step.contextLens[s] - (step.cuSeqlensQ[s + 1] - step.cuSeqlensQ[s]);
      for (let t = step.cuSeqlensQ[s]; t < step.cuSeqlensQ[s + 1]; t++) {
        const position = step.positions[t];
        assert(position === first + t - step.cuSeqlensQ[s], 'positions follow the context');
        for (let g = 0; g < this.#caches.length; g++) hashes[t] += this.#groupHash(step, g, s, t, position);
      }
    }
    return hashes;
  }

  #groupHash(step: StepBatch, g: number, s: number, t: number, position: number): number {
    const { blockSize, windows } = this.options;
    const { slotMapping, blockTables, maxBlocksPerSeq } = step.groups[g];
    const cache = this.#caches[g];
    const read = (p: number) => {
      const block = blockTables[s * maxBlocksPerSeq + Math.floor(p / blockSize)];
      return cache[block * blockSize + (p % blockSize)];
    };
    cache[slotMapping[t]] = cell(step.tokenIds[t], position > 0 ? read(position - 1) : 0);
    return contextHash(read, position, windows[g], g);
  }
}

/** The tokens that a choice must get, computed from the prompt alone. */
export function toyGenerate(
  prompt: ArrayLike<number>,
  params: Partial<SamplingParams>,
  options: { choice?: number; maxModelLen: number; windows?: readonly (number | null)[] },
): number[] {
  const sampling = { ...GREEDY, ...params };
  const { choice = 0, maxModelLen, windows = [null] } = options;
  const tokens = Array.from(prompt);
  const cells: number[] = [];
  while (tokens.length < Math.min(prompt.length + sampling.maxTokens, maxModelLen)) {
    for (let p = cells.length; p < tokens.length; p++) cells.push(cell(tokens[p], cells[p - 1] ?? 0));
    const output = tokens.slice(prompt.length);
    let hash = 0;
    windows.forEach((window, g) => (hash += contextHash((p) => cells[p], tokens.length - 1, window, g)));
    const banned = new Set(output.length < sampling.minTokens ? sampling.stopTokenIds : []);
    for (const { tokenId, bias } of sampling.logitBias) if (bias === -Infinity) banned.add(tokenId);
    const penalised = penalise(sampling, prompt, output);
    const seed = BigInt.asUintN(64, sampling.seed + BigInt(choice));
    const draw = sampling.temperature > 0 ? mix(Number(seed & 0xffffffffn), tokens.length) : 0;
    const token = pick((hash + penalised + draw) >>> 0, (id) => banned.has(id));
    tokens.push(token);
    if (sampling.stopTokenIds.includes(token)) break;
  }
  return tokens.slice(prompt.length);
}

/** The log-probability that the toy gives to `tokens[position + 1]` after `tokens[0..position]`. */
export function toyPromptLogprob(tokens: readonly number[], position: number): number {
  const cells: number[] = [];
  for (let p = 0; p <= position; p++) cells.push(cell(tokens[p], cells[p - 1] ?? 0));
  return scoreOf(contextHash((p) => cells[p], position, null, 0) >>> 0, tokens[position + 1]);
}

function cell(tokenId: number, previous: number): number {
  return mix(previous, tokenId + 1);
}

function contextHash(
  read: (position: number) => number,
  position: number,
  window: number | null,
  group: number,
): number {
  let hash = group + 1;
  const first = window === null ? 0 : Math.max(0, position - window + 1);
  for (let p = first; p <= position; p++) hash = mix(hash, read(p));
  return hash >>> 0;
}

function mix(a: number, b: number): number {
  let x = Math.imul(a ^ 0x9e3779b9, 0x85ebca6b) ^ Math.imul(b + 0x165667b1, 0xc2b2ae35);
  x = Math.imul(x ^ (x >>> 15), 0x2c1b3c6d);
  return (x ^ (x >>> 13)) | 0;
}

function pick(hash: number, isBanned: (id: number) => boolean): number {
  let token = hash % TOY_VOCAB_SIZE;
  for (let i = 0; i < TOY_VOCAB_SIZE && isBanned(token); i++) token = (token + 1) % TOY_VOCAB_SIZE;
  return token;
}

function scoreOf(hash: number, tokenId: number): number {
  return Math.fround(-((mix(hash, tokenId) >>> 0) % 1000) / 100);
}

/** Depends on the distinct tokens and their counts, not on their order. */
function penalise(sampling: SamplingParams, prompt: ArrayLike<number>, output: readonly number[]): number {
  if (!sampling.presencePenalty && !sampling.frequencyPenalty && sampling.repetitionPenalty === 1) return 0;
  const counts = new Map<number, number>();
  if (sampling.repetitionPenalty !== 1) for (const id of Array.from(prompt)) counts.set(id, 0);
  for (const id of output) counts.set(id, (counts.get(id) ?? 0) + 1);
  let sum = 0;
  for (const [id, count] of counts) sum += mix(id, count);
  return sum;
}

function sampleRows(step: StepBatch, hashes: Uint32Array, isNaN: boolean): StepResult {
  const { sampling, logitRows } = step;
  const numRows = logitRows.length;
  const topCount = Math.max(0, ...sampling.numLogprobs);
  const result = {
    tokenIds: new Int32Array(numRows),
    logprobs: new Float32Array(numRows).fill(NaN),
    ranks: new Int32Array(numRows),
    topCount,
    topIds: new Int32Array(numRows * topCount).fill(-1),
    topLogprobs: new Float32Array(numRows * topCount),
    rowStatus: new Uint8Array(numRows),
    logits: null,
  };
  for (let row = 0; row < numRows; row++) {
    const hash = hashes[logitRows[row]];
    const target = sampling.targetIds[row];
    const token = target >= 0 ? target : drawRow(sampling, row, hash);
    result.tokenIds[row] = token;
    if (isNaN && row === 0) result.rowStatus[row] = 1;
    if (sampling.numLogprobs[row] < 0) continue;
    result.logprobs[row] = scoreOf(hash, token);
    result.ranks[row] = 1 + (hash % 7);
    for (let i = 0; i < sampling.numLogprobs[row]; i++) {
      result.topIds[row * topCount + i] = (token + i) % TOY_VOCAB_SIZE;
      result.topLogprobs[row * topCount + i] = scoreOf(hash, token) - i;
    }
  }
  return result;
}

function drawRow(sampling: SamplingBatch, row: number, hash: number): number {
  const banned = new Set<number>();
  for (let i = sampling.biasOffsets[row]; i < sampling.biasOffsets[row + 1]; i++)
    if (sampling.biasValues[i] === -Infinity) banned.add(sampling.biasIds[i]);
  let penalised = 0;
  for (let i = sampling.historyOffsets[row]; i < sampling.historyOffsets[row + 1]; i++)
    penalised += mix(sampling.historyIds[i], sampling.historyOutputCounts[i]);
  const draw = sampling.temperature[row] > 0 ? mix(sampling.seedLow[row], sampling.position[row]) : 0;
  return pick((hash + penalised + draw) >>> 0, (id) => banned.has(id));
}

function toyPlan(options: ToyOptions): Plan {
  const { blockSize, maxNumBatchedTokens, maxNumSeqs, maxNumPromptRows, windows } = options;
  const plan: Partial<Plan> = {
    blockSize,
    limits: { maxNumBatchedTokens, maxNumSeqs, maxNumLogitRows: maxNumSeqs + maxNumPromptRows },
    kvCacheGroups: windows.map((window, index) => ({ index, window, layers: [], bytesPerToken: 4 })),
  };
  return plan as Plan;
}

function assert(holds: boolean, what: string): void {
  if (!holds) throw new Error(`the batch breaks a rule: ${what}`);
}
