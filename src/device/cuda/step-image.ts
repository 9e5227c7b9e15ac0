// One step in page-locked host memory: its arrays as the device wants them, lists of any length, and room for the results,
// which kernels write there themselves.
import type { Address } from '../../ffi/native-memory.ts';
import { QUERIES_PER_TILE, QUERY_TILE_WORDS, type StepCounts } from '../../kernels/cuda/cuda-kernel.ts';
import type { SamplingBatch, StepBatch, StepResult } from '../step.ts';
import type { DeviceMemoryPool, PinnedBuffer } from './device-memory.ts';
import {
  COUNTS,
  NUM_RESULT_COLUMNS,
  PIECE_WORDS,
  roundUp,
  SAMPLING_COLUMNS,
  TABLE_WIDTHS_AT,
  WORD,
  type StepLayout,
} from '../../kernels/cuda/step-layout.ts';

const FIRST_LIST_WORDS = 1024;

export class StepImage {
  readonly address: Address;
  readonly #pool: DeviceMemoryPool;
  readonly #layout: StepLayout;
  readonly #words: Int32Array;
  readonly #results: PinnedBuffer;
  #lists: PinnedBuffer;
  #numPieces = 0;
  #numRows = 0;
  #topCount = 0;
  #topAt = 0;

  constructor(pool: DeviceMemoryPool, layout: StepLayout) {
    this.#pool = pool;
    this.#layout = layout;
    const { address, bytes } = pool.allocatePinned(layout.totalWords * WORD);
    this.address = address;
    this.#words = new Int32Array(bytes.buffer);
    this.#results = pool.allocatePinned(NUM_RESULT_COLUMNS * layout.columnStride * WORD);
    this.#lists = pool.allocatePinned(FIRST_LIST_WORDS * WORD);
  }

  /** The step that was here must have ended. */
  write(step: StepBatch): StepCounts {
    this.#numPieces = 0;
    this.#numRows = step.logitRows.length;
    this.#addPiece(this.#layout.header, this.#layout.headerWords);
    this.#writeSampling(step.sampling);
    this.#writeLists(step);
    return this.#writeTokens(step);
  }

  /** The results of the step that has ended. */
  readResults(logits: Float32Array | null): StepResult {
    const rows = this.#numRows;
    const { columnStride } = this.#layout;
    const { buffer } = this.#results.bytes;
    const column = (index: number): [number, number] => [index * columnStride, index * columnStride + rows];
    const ints = new Int32Array(buffer);
    const tops = rows * this.#topCount;
    const lists = this.#lists.bytes.buffer;
    return {
      tokenIds: ints.slice(...column(0)),
      logprobs: new Float32Array(buffer).slice(...column(1)),
      ranks: ints.slice(...column(2)),
      rowStatus: Uint8Array.from(ints.subarray(...column(3))),
      topCount: this.#topCount,
      topIds: new Int32Array(lists, this.#topAt * WORD, tops).slice(),
      topLogprobs: new Float32Array(lists, (this.#topAt + tops) * WORD, tops).slice(),
      logits,
    };
  }

  /** Whatever follows the values up to a whole piece is sent along and read by nobody. */
  #write(values: ArrayLike<number>, place: number): void {
    this.#words.set(values, place);
    this.#addPiece(place, values.length);
  }

  #addPiece(place: number, numWords: number): void {
    const at = this.#layout.pieces + 2 * this.#numPieces++;
    this.#words[at] = place / PIECE_WORDS;
    this.#words[at + 1] = Math.ceil(numWords / PIECE_WORDS);
  }

  #writeSampling(sampling: SamplingBatch): void {
    const { sampling: first, columnStride } = this.#layout;
    SAMPLING_COLUMNS.forEach((name, i) => {
      const { buffer, byteOffset, length } = sampling[name];
      this.#write(new Int32Array(buffer, byteOffset, length), first + i * columnStride);
    });
    this.#topCount = sampling.numLogprobs.reduce((most, count) => Math.max(most, count), 0);
  }

  /** What is sent, then room for what kernels save and give back; their addresses go into the header. */
  #writeLists({ sampling, blockCopies }: StepBatch): void {
    const { biasIds, biasValues, historyIds, historyOutputCounts } = sampling;
    const tops = this.#numRows * this.#topCount;
    const [numBiases, numInHistory] = [biasIds.length, historyIds.length];
    const lengths = [blockCopies.length, numBiases, numBiases, numBiases, numInHistory, numInHistory];
    const places = placesOf([...lengths, numInHistory, tops, tops]);
    this.#reserveLists(places.at(-1)!);
    const words = new Int32Array(this.#lists.bytes.buffer);
    const sent: readonly (readonly [Int32Array | Float32Array, number])[] = [
      [blockCopies, places[0]],
      [biasIds, places[1]],
      [biasValues, places[2]],
      [historyIds, places[4]],
      [historyOutputCounts, places[5]],
    ];
    for (const [list, at] of sent) words.set(new Int32Array(list.buffer, list.byteOffset, list.length), at);
    this.#topAt = places[7];
    const addresses = places.slice(0, -1).map((at) => this.#lists.address + at * WORD);
    const header = [...addresses, this.#topCount, this.#results.address];
    const { buffer } = this.#words;
    new BigInt64Array(buffer, this.#layout.lists * WORD, header.length).set(header.map(BigInt));
  }

  #reserveLists(words: number): void {
    if (this.#lists.bytes.byteLength >= words * WORD) return;
    this.#pool.freePinned(this.#lists);
    this.#lists = this.#pool.allocatePinned(2 * words * WORD);
  }

  #writeTokens(step: StepBatch): StepCounts {
    const { numTokens, numSeqs } = step;
    const at = this.#layout;
    const tiles = queryTilesOf(step);
    const counts = {
      numTokens,
      numSeqs,
      numLogitRows: this.#numRows,
      numQueryTiles: tiles.length / QUERY_TILE_WORDS,
      numDecodeSeqs: countDecodes(step),
    };
    for (const [name, place] of Object.entries(COUNTS))
      this.#words[at.header + place] = counts[name as keyof typeof COUNTS];
    // Whatever lies behind the last token would be taken for one.
    this.#words.fill(0, at.tokenIds + numTokens, at.tokenIds + roundUp(numTokens));
    this.#write(step.tokenIds.subarray(0, numTokens), at.tokenIds);
    this.#write(step.positions.subarray(0, numTokens), at.positions);
    this.#write(step.cuSeqlensQ.subarray(0, numSeqs + 1), at.cuSeqlensQ);
    this.#write(step.contextLens.subarray(0, numSeqs), at.contextLens);
    this.#write(step.logitRows, at.logitRows);
    this.#write(tiles, at.queryTiles);
    step.groups.forEach(({ slotMapping, blockTables, maxBlocksPerSeq }, group) => {
      this.#write(slotMapping.subarray(0, numTokens), at.slotMapping[group]);
      this.#write(blockTables.subarray(0, numSeqs * maxBlocksPerSeq), at.blockTables[group]);
      this.#words[at.header + TABLE_WIDTHS_AT + group] = maxBlocksPerSeq;
    });
    return counts;
  }
}

/** Which piece the token ids are: after the header and the sampling's columns. */
export const TOKEN_PIECE = 1 + SAMPLING_COLUMNS.length;

/** Where lists of these lengths begin, one after the other, and where the last ends. */
function placesOf(lengths: readonly number[]): number[] {
  const places = [0];
  for (const length of lengths) places.push(places.at(-1)! + length);
  return places;
}

/**
 * The `Queries` of query-tiles.cuh: each `QUERIES_PER_TILE` tokens of the sequences with more than one, those that see most keys
 * first. Work that is given out in this order ends at about the same time everywhere.
 */
function queryTilesOf({ numSeqs, cuSeqlensQ, contextLens }: StepBatch): number[] {
  const tiles: { seq: number; first: number; end: number; past: number }[] = [];
  for (let seq = 0; seq < numSeqs; seq++) {
    const end = cuSeqlensQ[seq + 1];
    if (end - cuSeqlensQ[seq] === 1) continue;
    for (let first = cuSeqlensQ[seq]; first < end; first += QUERIES_PER_TILE)
      tiles.push({ seq, first, end, past: contextLens[seq] - end });
  }
  tiles.sort((a, b) => b.first + b.past - (a.first + a.past));
  return tiles.flatMap(({ seq, first, end, past }) => [seq, first, end, past]);
}

function countDecodes({ numSeqs, cuSeqlensQ }: StepBatch): number {
  let count = 0;
  for (let seq = 0; seq < numSeqs; seq++) if (cuSeqlensQ[seq + 1] - cuSeqlensQ[seq] === 1) count++;
  return count;
}
