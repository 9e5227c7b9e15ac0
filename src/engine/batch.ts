// Flattens a schedule into the one ragged batch that a device runs.
import type { CacheGroupBatch, StepBatch } from '../device/step.ts';
import { SamplingRows } from './sampling-rows.ts';
import type { Schedule } from './scheduler.ts';
import type { ScheduledSequence } from './sequence.ts';

export interface BatchLimits {
  readonly maxNumBatchedTokens: number;
  readonly maxNumSeqs: number;
  readonly maxNumLogitRows: number;
  readonly numGroups: number;
  readonly blockSize: number;
}

/** Reuses its arrays from step to step: a batch is valid until the next one is built. */
export class BatchBuilder {
  readonly #blockSize: number;
  readonly #tokenIds: Int32Array;
  readonly #positions: Int32Array;
  readonly #cuSeqlensQ: Int32Array;
  readonly #contextLens: Int32Array;
  readonly #logitRows: Int32Array;
  readonly #slotMappings: readonly Int32Array[];
  readonly #blockTables: Int32Array[];
  readonly #sampling: SamplingRows;

  constructor(limits: BatchLimits) {
    const { maxNumBatchedTokens, maxNumSeqs, maxNumLogitRows, numGroups } = limits;
    this.#blockSize = limits.blockSize;
    this.#tokenIds = new Int32Array(maxNumBatchedTokens);
    this.#positions = new Int32Array(maxNumBatchedTokens);
    this.#cuSeqlensQ = new Int32Array(maxNumSeqs + 1);
    this.#contextLens = new Int32Array(maxNumSeqs);
    this.#logitRows = new Int32Array(maxNumLogitRows);
    this.#slotMappings = Array.from({ length: numGroups }, () => new Int32Array(maxNumBatchedTokens));
    this.#blockTables = Array.from({ length: numGroups }, () => new Int32Array(0));
    this.#sampling = new SamplingRows(maxNumLogitRows);
  }

  build({ sequences, numTokens, blockCopies }: Schedule): StepBatch {
    this.#writeTokens(sequences);
    const numLogitRows = this.#writeLogitRows(sequences);
    return {
      numTokens,
      numSeqs: sequences.length,
      tokenIds: this.#tokenIds.subarray(0, numTokens),
      positions: this.#positions.subarray(0, numTokens),
      cuSeqlensQ: this.#cuSeqlensQ.subarray(0, sequences.length + 1),
      contextLens: this.#contextLens.subarray(0, sequences.length),
      groups: this.#slotMappings.map((_, group) => this.#buildGroup(group, sequences, numTokens)),
      logitRows: this.#logitRows.subarray(0, numLogitRows),
      blockCopies,
      sampling: this.#sampling.finish(),
      returnLogits: false,
    };
  }

  #writeTokens(sequences: readonly ScheduledSequence[]): void {
    let offset = 0;
    for (let s = 0; s < sequences.length; s++) {
      const { sequence, start, end, drawnByRow } = sequences[s];
      const numKnown = drawnByRow < 0 ? end - start : end - start - 1;
      this.#tokenIds.set(sequence.tokens.view(start, start + numKnown), offset);
      if (drawnByRow >= 0) this.#tokenIds[offset + numKnown] = -1 - drawnByRow;
      for (let position = start; position < end; position++) this.#positions[offset++] = position;
      this.#contextLens[s] = end;
      this.#cuSeqlensQ[s + 1] = offset;
    }
  }

  /** A choice each for the last token of a sequence; before them its prompt tokens to be scored. */
  #writeLogitRows(sequences: readonly ScheduledSequence[]): number {
    let row = 0;
    this.#sampling.begin();
    for (let s = 0; s < sequences.length; s++) {
      const { sequence, start, end, firstPromptRow, endPromptRow, choices } = sequences[s];
      const offset = this.#cuSeqlensQ[s] - start;
      for (let position = firstPromptRow; position < endPromptRow; position++) {
        this.#logitRows[row++] = offset + position;
        this.#sampling.addTarget(sequence, sequence.tokens.at(position + 1));
      }
      for (const choice of choices) {
        this.#logitRows[row++] = offset + end - 1;
        this.#sampling.addDraw(sequence, choice, end);
      }
    }
    return row;
  }

  #buildGroup(group: number, sequences: readonly ScheduledSequence[], numTokens: number): CacheGroupBatch {
    const maxBlocksPerSeq = this.#writeBlockTables(group, sequences);
    const slotMapping = this.#slotMappings[group];
    this.#writeSlots(slotMapping, group, sequences);
    return {
      slotMapping: slotMapping.subarray(0, numTokens),
      blockTables: this.#blockTables[group].subarray(0, sequences.length * maxBlocksPerSeq),
      maxBlocksPerSeq,
    };
  }

  #writeSlots(slotMapping: Int32Array, group: number, sequences: readonly ScheduledSequence[]): void {
    const blockSize = this.#blockSize;
    let offset = 0;
    for (const { sequence, start, end } of sequences) {
      const table = sequence.blocks.tables[group];
      for (let position = start; position < end; position++)
        slotMapping[offset++] =
          table.at(Math.floor(position / blockSize)) * blockSize + (position % blockSize);
    }
  }

  /** Returns the width of the rows. */
  #writeBlockTables(group: number, sequences: readonly ScheduledSequence[]): number {
    let width = 1;
    for (const { sequence } of sequences) width = Math.max(width, sequence.blocks.numBlocks);
    const size = sequences.length * width;
    if (this.#blockTables[group].length < size) this.#blockTables[group] = new Int32Array(size * 2);
    const rows = this.#blockTables[group];
    for (let s = 0; s < sequences.length; s++) {
      const table = sequences[s].sequence.blocks.tables[group];
      rows.set(table.view(), s * width);
      rows.fill(0, s * width + table.length, (s + 1) * width);
    }
    return width;
  }
}
