// A step's arrays on the device, at places that never move, so that kernels' parameters and recorded steps stay valid. Filled
// through page-locked memory by a few copies. Lists without a limit lie apart, their places are told to the kernel.
import type { Plan } from '../../compiler/plan.ts';
import type { Address } from '../../ffi/cuda/driver.ts';
import type { StepInputName } from '../../ir/graph.ts';
import { QUERIES_PER_TILE, type StepAddresses, type StepCounts } from '../../kernels/cuda/cuda-kernel.ts';
import type { SamplingBatch, StepBatch, StepResult } from '../step.ts';
import type { CudaRuntime } from './cuda-runtime.ts';
import type { DeviceMemoryPool, PinnedBuffer } from './device-memory.ts';
import type { StepPlaces } from './place-plan.ts';

const WORD = 4;
/** Header words: counts, then the width of each group's block table, then the `Lists` of sample.cu. */
const COUNTS = { numTokens: 0, numSeqs: 1, numLogitRows: 2, numQueryTiles: 3 } as const;
const TABLE_WIDTHS_AT = 4;

/** One element per logit row, in the order of sample.cu. */
const SAMPLING_COLUMNS = [
  ...(['targetIds', 'temperature', 'topK', 'topP', 'minP', 'repetitionPenalty', 'presencePenalty'] as const),
  ...([
    'frequencyPenalty',
    'seedLow',
    'seedHigh',
    'position',
    'numLogprobs',
    'biasOffsets',
    'historyOffsets',
  ] as const),
] satisfies readonly (keyof SamplingBatch)[];
const NUM_RESULT_COLUMNS = 4;

/** Places in the fixed part, in words. */
interface StepLayout {
  readonly lists: number;
  readonly sampling: number;
  readonly cuSeqlensQ: number;
  readonly contextLens: number;
  readonly logitRows: number;
  readonly queryTiles: number;
  readonly tokenIds: number;
  readonly positions: number;
  /** Per group. */
  readonly slotMapping: readonly number[];
  readonly blockTables: readonly number[];
  /** Words up to the block tables, and in all. */
  readonly fixedWords: number;
  readonly totalWords: number;
}

/** Numbers that a step brings without a limit known ahead. */
interface ListMemory {
  readonly words: number;
  readonly device: Address;
  readonly host: PinnedBuffer;
}

export class StepMemory implements StepPlaces {
  /** Where sample.cu finds its columns, lists and results. */
  readonly sampling: { readonly columns: Address; readonly lists: Address; readonly results: Address };
  readonly addresses: StepAddresses;
  /** Rows of every sampling column and result. */
  readonly capacity: number;
  readonly #runtime: CudaRuntime;
  readonly #pool: DeviceMemoryPool;
  readonly #layout: StepLayout;
  readonly #device: Address;
  readonly #host: PinnedBuffer;
  readonly #words: Int32Array;
  readonly #results: PinnedBuffer;
  #lists: ListMemory;
  #topCount = 0;
  #topAt = 0;

  constructor(runtime: CudaRuntime, pool: DeviceMemoryPool, plan: Plan) {
    this.#runtime = runtime;
    this.#pool = pool;
    this.#layout = layOut(plan);
    this.capacity = plan.limits.maxNumLogitRows;
    this.#device = pool.allocate(this.#layout.totalWords * WORD);
    this.#host = pool.allocatePinned(this.#layout.totalWords * WORD);
    this.#words = new Int32Array(this.#host.bytes.buffer);
    const resultBytes = NUM_RESULT_COLUMNS * this.capacity * WORD;
    this.#results = pool.allocatePinned(resultBytes);
    this.#lists = this.#allocateLists(1024);
    const at = (place: number): Address => this.#device + place * WORD;
    const { lists, sampling, queryTiles } = this.#layout;
    this.sampling = { columns: at(sampling), lists: at(lists), results: pool.allocate(resultBytes) };
    this.addresses = {
      numTokens: at(COUNTS.numTokens),
      numSeqs: at(COUNTS.numSeqs),
      numLogitRows: at(COUNTS.numLogitRows),
      numQueryTiles: at(COUNTS.numQueryTiles),
      queryTiles: at(queryTiles),
    };
  }

  /** Where a step's array lies, and the width of its rows if it is a block table. */
  input(name: StepInputName, group: number): { address: Address; strideAddress: Address } {
    const place = this.#layout[name];
    const at = typeof place === 'number' ? place : place[group];
    return {
      address: this.#device + at * WORD,
      strideAddress: this.#device + (TABLE_WIDTHS_AT + group) * WORD,
    };
  }

  /** Puts a step on the stream's way to the device. The last step must have ended. */
  write(step: StepBatch): StepCounts {
    const counts = this.#writeTokens(step);
    this.#writeSampling(step);
    const { driver, stream } = this.#runtime;
    driver.copyToDevice(this.#device, this.#host.address, this.#layout.fixedWords * WORD, stream);
    step.groups.forEach(({ blockTables, maxBlocksPerSeq }, group) => {
      const place = this.#layout.blockTables[group];
      this.#words.set(blockTables.subarray(0, step.numSeqs * maxBlocksPerSeq), place);
      const bytes = step.numSeqs * maxBlocksPerSeq * WORD;
      if (bytes > 0)
        driver.copyToDevice(this.#device + place * WORD, this.#host.address + place * WORD, bytes, stream);
    });
    return counts;
  }

  /** Where the step's block copies lie on the device. */
  get blockCopies(): Address {
    return this.#lists.device;
  }

  /** Puts the results on the way back. */
  fetchResults(): void {
    const { driver, stream } = this.#runtime;
    const { address, bytes } = this.#results;
    driver.copyToHost(address, this.sampling.results, bytes.byteLength, stream);
    if (this.#topCount === 0) return;
    const [at, size] = [this.#topAt * WORD, 2 * this.#numRows * this.#topCount * WORD];
    driver.copyToHost(this.#lists.host.address + at, this.#lists.device + at, size, stream);
  }

  /** The results of the step that has ended. */
  readResults(logits: Float32Array | null): StepResult {
    const rows = this.#numRows;
    const { buffer } = this.#results.bytes;
    const column = (index: number): [number, number] => [index * this.capacity, index * this.capacity + rows];
    const ints = new Int32Array(buffer);
    const tops = rows * this.#topCount;
    const lists = this.#lists.host.bytes.buffer;
    return {
      tokenIds: ints.slice(...column(0)),
      logprobs: new Float32Array(buffer).slice(...column(1)),
      ranks: ints.slice(...column(2)),
      rowStatus: Uint8Array.from(ints.slice(...column(3))),
      topCount: this.#topCount,
      topIds: new Int32Array(lists, this.#topAt * WORD, tops).slice(),
      topLogprobs: new Float32Array(lists, (this.#topAt + tops) * WORD, tops).slice(),
      logits,
    };
  }

  get #numRows(): number {
    return this.#words[COUNTS.numLogitRows];
  }

  #writeTokens(step: StepBatch): StepCounts {
    const { numTokens, numSeqs } = step;
    const at = this.#layout;
    const tiles = queryTilesOf(step);
    const counts = {
      numTokens,
      numSeqs,
      numLogitRows: step.logitRows.length,
      numQueryTiles: tiles.length / 2,
      numDecodeSeqs: countDecodes(step),
    };
    for (const [name, place] of Object.entries(COUNTS))
      this.#words[place] = counts[name as keyof typeof COUNTS];
    this.#words.set(step.cuSeqlensQ.subarray(0, numSeqs + 1), at.cuSeqlensQ);
    this.#words.set(step.contextLens.subarray(0, numSeqs), at.contextLens);
    this.#words.set(step.logitRows, at.logitRows);
    this.#words.set(tiles, at.queryTiles);
    this.#words.set(step.tokenIds.subarray(0, numTokens), at.tokenIds);
    this.#words.set(step.positions.subarray(0, numTokens), at.positions);
    step.groups.forEach(({ slotMapping, maxBlocksPerSeq }, group) => {
      this.#words.set(slotMapping.subarray(0, numTokens), at.slotMapping[group]);
      this.#words[TABLE_WIDTHS_AT + group] = maxBlocksPerSeq;
    });
    return counts;
  }

  #writeSampling({ sampling, blockCopies }: StepBatch): void {
    SAMPLING_COLUMNS.forEach((name, i) => {
      const column = sampling[name];
      const bits = new Int32Array(column.buffer, column.byteOffset, column.length);
      this.#words.set(bits, this.#layout.sampling + i * (this.capacity + 1));
    });
    this.#topCount = sampling.numLogprobs.reduce((most, count) => Math.max(most, count), 0);
    this.#writeLists(sampling, blockCopies);
  }

  /** Block copies first, then what is sent, then room for what kernels save and give back. */
  #writeLists(sampling: SamplingBatch, blockCopies: Int32Array): void {
    const { biasIds, biasValues, historyIds, historyOutputCounts } = sampling;
    const tops = this.#numRows * this.#topCount;
    const sent = [blockCopies, biasIds, biasValues, historyIds, historyOutputCounts];
    const numSent = sent.reduce((sum, { length }) => sum + length, 0);
    const numWords = numSent + biasIds.length + historyIds.length + 2 * tops;
    if (numWords > this.#lists.words) this.#growLists(numWords * 2);
    const words = new Int32Array(this.#lists.host.bytes.buffer);
    const places: number[] = [];
    let next = 0;
    for (const list of sent) {
      places.push(next);
      words.set(new Int32Array(list.buffer, list.byteOffset, list.length), next);
      next += list.length;
    }
    const [, ids, values, history, outputCounts] = places;
    const biasSaved = numSent;
    const historySaved = biasSaved + biasIds.length;
    this.#topAt = historySaved + historyIds.length;
    const pointers = [
      ids,
      values,
      biasSaved,
      history,
      outputCounts,
      historySaved,
      this.#topAt,
      this.#topAt + tops,
    ];
    const header = new BigInt64Array(this.#host.bytes.buffer, this.#layout.lists * WORD, pointers.length + 1);
    pointers.forEach((place, i) => (header[i] = BigInt(this.#lists.device + place * WORD)));
    header[pointers.length] = BigInt(this.#topCount);
    const { driver, stream } = this.#runtime;
    if (numSent > 0)
      driver.copyToDevice(this.#lists.device, this.#lists.host.address, numSent * WORD, stream);
  }

  #growLists(words: number): void {
    this.#pool.free(this.#lists.device);
    this.#pool.freePinned(this.#lists.host);
    this.#lists = this.#allocateLists(words);
  }

  #allocateLists(words: number): ListMemory {
    return {
      words,
      device: this.#pool.allocate(words * WORD),
      host: this.#pool.allocatePinned(words * WORD),
    };
  }
}

function layOut({ limits, kvCacheGroups, model, blockSize }: Plan): StepLayout {
  const { maxNumBatchedTokens, maxNumSeqs, maxNumLogitRows } = limits;
  let next = 0;
  const place = (words: number): number => {
    const at = next;
    next = Math.ceil((next + words) / 4) * 4;
    return at;
  };
  place(TABLE_WIDTHS_AT + kvCacheGroups.length);
  const lists = place(18);
  const sampling = place(SAMPLING_COLUMNS.length * (maxNumLogitRows + 1));
  const [cuSeqlensQ, contextLens, logitRows] = [
    place(maxNumSeqs + 1),
    place(maxNumSeqs),
    place(maxNumLogitRows),
  ];
  const queryTiles = place(2 * (Math.ceil(maxNumBatchedTokens / QUERIES_PER_TILE) + maxNumSeqs));
  const [tokenIds, positions] = [place(maxNumBatchedTokens), place(maxNumBatchedTokens)];
  const slotMapping = kvCacheGroups.map(() => place(maxNumBatchedTokens));
  const fixedWords = next;
  const maxBlocksPerSeq = Math.ceil(model.maxModelLen / blockSize) + 1;
  const blockTables = kvCacheGroups.map(() => place(maxNumSeqs * maxBlocksPerSeq));
  const arrays = {
    cuSeqlensQ,
    contextLens,
    logitRows,
    queryTiles,
    tokenIds,
    positions,
    slotMapping,
    blockTables,
  };
  return { lists, sampling, ...arrays, fixedWords, totalWords: next };
}

/** (sequence, first token) of each `QUERIES_PER_TILE` tokens of the sequences with more than one. */
function queryTilesOf({ numSeqs, cuSeqlensQ }: StepBatch): number[] {
  const tiles: number[] = [];
  for (let seq = 0; seq < numSeqs; seq++) {
    const end = cuSeqlensQ[seq + 1];
    if (end - cuSeqlensQ[seq] === 1) continue;
    for (let token = cuSeqlensQ[seq]; token < end; token += QUERIES_PER_TILE) tiles.push(seq, token);
  }
  return tiles;
}

function countDecodes({ numSeqs, cuSeqlensQ }: StepBatch): number {
  let count = 0;
  for (let seq = 0; seq < numSeqs; seq++) if (cuSeqlensQ[seq + 1] - cuSeqlensQ[seq] === 1) count++;
  return count;
}
