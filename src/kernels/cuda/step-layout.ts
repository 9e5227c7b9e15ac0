// Where a step's arrays lie, in words: the same on the device and in its page-locked image. Pure arithmetic on a plan's limits.
import { QUERIES_PER_TILE, QUERY_TILE_WORDS } from './cuda-kernel.ts';

export const WORD = 4;
/** Words of a piece that a kernel moves at once; every array begins at a multiple. */
export const PIECE_WORDS = 4;

/** Header words: counts, then the width of each group's block table, then the `Lists` of sample.cu. */
export const COUNTS = { numTokens: 0, numSeqs: 1, numLogitRows: 2, numQueryTiles: 3 } as const;
export const TABLE_WIDTHS_AT = 4;
/** 64-bit words of `Lists`. */
const NUM_LIST_WORDS = 11;

/** What SamplingBatch has one element of per logit row, in the order of sample.cu. */
export const SAMPLING_ROWS = [
  'targetIds',
  'temperature',
  'topK',
  'topP',
  'minP',
  'repetitionPenalty',
  'presencePenalty',
  'frequencyPenalty',
  'seedLow',
  'seedHigh',
  'position',
  'numLogprobs',
] as const;
/** With what has one more. */
export const SAMPLING_COLUMNS = [...SAMPLING_ROWS, 'biasOffsets', 'historyOffsets'] as const;
export const NUM_RESULT_COLUMNS = 4;

/** What a plan says of its steps. */
export interface StepShape {
  readonly limits: {
    readonly maxNumBatchedTokens: number;
    readonly maxNumSeqs: number;
    readonly maxNumLogitRows: number;
  };
  readonly kvCacheGroups: readonly unknown[];
  readonly model: { readonly maxModelLen: number };
  readonly blockSize: number;
}

export interface StepLayout {
  /** (place, length) of each piece that a step uses, in units of `PIECE_WORDS`. */
  readonly pieces: number;
  readonly numPieces: number;
  readonly header: number;
  readonly headerWords: number;
  /** Within the header. */
  readonly lists: number;
  readonly sampling: number;
  /** From one column to the next, of sampling and of results: the logit rows at most and one more. */
  readonly columnStride: number;
  readonly cuSeqlensQ: number;
  readonly contextLens: number;
  readonly logitRows: number;
  readonly queryTiles: number;
  readonly tokenIds: number;
  readonly positions: number;
  /** Per group. */
  readonly slotMapping: readonly number[];
  readonly blockTables: readonly number[];
  readonly totalWords: number;
}

/** Room in block tables for each of a step's sequences. */
export function blocksPerSeq({ model, blockSize }: Pick<StepShape, 'model' | 'blockSize'>): number {
  return Math.ceil(model.maxModelLen / blockSize) + 1;
}

export function layOutStep(shape: StepShape): StepLayout {
  const { limits, kvCacheGroups } = shape;
  const { maxNumBatchedTokens, maxNumSeqs, maxNumLogitRows } = limits;
  const numGroups = kvCacheGroups.length;
  let next = 0;
  const place = (words: number): number => {
    const at = next;
    next = roundUp(next + words);
    return at;
  };
  const numPieces = 1 + SAMPLING_COLUMNS.length + 6 + 2 * numGroups;
  const pieces = place(2 * numPieces);
  const listsInHeader = roundUp(TABLE_WIDTHS_AT + numGroups);
  const headerWords = roundUp(listsInHeader + 2 * NUM_LIST_WORDS);
  const header = place(headerWords);
  const columnStride = roundUp(maxNumLogitRows + 1);
  return {
    pieces,
    numPieces,
    header,
    headerWords,
    lists: header + listsInHeader,
    sampling: place(SAMPLING_COLUMNS.length * columnStride),
    columnStride,
    cuSeqlensQ: place(maxNumSeqs + 1),
    contextLens: place(maxNumSeqs),
    logitRows: place(maxNumLogitRows),
    queryTiles: place(QUERY_TILE_WORDS * (Math.ceil(maxNumBatchedTokens / QUERIES_PER_TILE) + maxNumSeqs)),
    tokenIds: place(maxNumBatchedTokens),
    positions: place(maxNumBatchedTokens),
    slotMapping: kvCacheGroups.map(() => place(maxNumBatchedTokens)),
    blockTables: kvCacheGroups.map(() => place(maxNumSeqs * blocksPerSeq(shape))),
    totalWords: next,
  };
}

/** What steps take of the device's memory: their arrays, and a token for each row that the next step may start from. */
export function stepBytes(shape: StepShape): number {
  const { totalWords, columnStride } = layOutStep(shape);
  return (totalWords + columnStride) * WORD;
}

export function roundUp(words: number): number {
  return Math.ceil(words / PIECE_WORDS) * PIECE_WORDS;
}
