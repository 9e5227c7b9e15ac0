// Builds steps for tests: some tokens of some sequences, each sequence with KV blocks of its own.
import type { StepBatch } from '../../src/device/step.ts';
import { samplingBatch, type SamplingRow } from './sampling-batch.ts';

/** Tokens of one sequence that a step computes. */
export interface SequenceChunk {
  readonly tokenIds: readonly number[];
  /** Tokens that are in its cache already. */
  readonly numCached: number;
  /** Its KV blocks, the same in every cache group; enough for all its tokens. */
  readonly blocks: readonly number[];
  /** Rows whose logits are wanted: indices into `tokenIds`; by default the last. */
  readonly logitRows?: readonly number[];
  /** Sampling of those rows; by default greedy. */
  readonly sampling?: SamplingRow;
}

export function stepBatch(chunks: readonly SequenceChunk[], blockSize: number, numGroups = 1): StepBatch {
  const starts = [0];
  for (const { tokenIds } of chunks) starts.push(starts.at(-1)! + tokenIds.length);
  const positions = chunks.flatMap(({ tokenIds, numCached }) => tokenIds.map((_, i) => numCached + i));
  const slots = chunks.flatMap(({ tokenIds, numCached, blocks }) =>
    tokenIds.map((_, i) => slotOf(numCached + i, blocks, blockSize)),
  );
  const maxBlocksPerSeq = Math.max(...chunks.map((chunk) => chunk.blocks.length));
  const tables = chunks.flatMap(({ blocks }) =>
    Array.from({ length: maxBlocksPerSeq }, (_, i) => blocks[i] ?? 0),
  );
  const rows = chunks.flatMap((chunk, i) => wantedRows(chunk).map((row) => starts[i] + row));
  const group = {
    slotMapping: Int32Array.from(slots),
    blockTables: Int32Array.from(tables),
    maxBlocksPerSeq,
  };
  return {
    numTokens: positions.length,
    numSeqs: chunks.length,
    tokenIds: Int32Array.from(chunks.flatMap((chunk) => chunk.tokenIds)),
    positions: Int32Array.from(positions),
    cuSeqlensQ: Int32Array.from(starts),
    contextLens: Int32Array.from(chunks, ({ tokenIds, numCached }) => numCached + tokenIds.length),
    groups: Array.from({ length: numGroups }, () => group),
    logitRows: Int32Array.from(rows),
    blockCopies: new Int32Array(0),
    sampling: samplingBatch(
      chunks.flatMap((chunk) => wantedRows(chunk).map(() => chunk.sampling ?? { temperature: 0 })),
    ),
    returnLogits: true,
  };
}

function wantedRows({ tokenIds, logitRows }: SequenceChunk): readonly number[] {
  return logitRows ?? [tokenIds.length - 1];
}

function slotOf(position: number, blocks: readonly number[], blockSize: number): number {
  return blocks[Math.floor(position / blockSize)] * blockSize + (position % blockSize);
}
