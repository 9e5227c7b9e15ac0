// Fills the sampling half of a step: one row per token to draw or to score.
import type { SamplingBatch } from '../device/step.ts';
import type { Sequence } from './sequence.ts';

const NONE_I32 = new Int32Array(0);
const NONE_F32 = new Float32Array(0);

/** Reuses its arrays: what `finish` returned is valid until `begin`. */
export class SamplingRows {
  #numRows = 0;
  /** The sequence that draws in each row; null in rows that score a prompt token. */
  readonly #drawing: (Sequence | null)[] = [];
  readonly #targetIds: Int32Array;
  readonly #temperature: Float32Array;
  readonly #topK: Int32Array;
  readonly #topP: Float32Array;
  readonly #minP: Float32Array;
  readonly #repetitionPenalty: Float32Array;
  readonly #presencePenalty: Float32Array;
  readonly #frequencyPenalty: Float32Array;
  readonly #seedLow: Uint32Array;
  readonly #seedHigh: Uint32Array;
  readonly #position: Uint32Array;
  readonly #numLogprobs: Int32Array;
  readonly #biasOffsets: Int32Array;
  readonly #historyOffsets: Int32Array;

  constructor(maxNumRows: number) {
    this.#targetIds = new Int32Array(maxNumRows);
    this.#temperature = new Float32Array(maxNumRows);
    this.#topK = new Int32Array(maxNumRows);
    this.#topP = new Float32Array(maxNumRows);
    this.#minP = new Float32Array(maxNumRows);
    this.#repetitionPenalty = new Float32Array(maxNumRows);
    this.#presencePenalty = new Float32Array(maxNumRows);
    this.#frequencyPenalty = new Float32Array(maxNumRows);
    this.#seedLow = new Uint32Array(maxNumRows);
    this.#seedHigh = new Uint32Array(maxNumRows);
    this.#position = new Uint32Array(maxNumRows);
    this.#numLogprobs = new Int32Array(maxNumRows);
    this.#biasOffsets = new Int32Array(maxNumRows + 1);
    this.#historyOffsets = new Int32Array(maxNumRows + 1);
  }

  begin(): void {
    this.#numRows = 0;
    this.#drawing.length = 0;
  }

  /** A row that scores `tokenId`, a token of the prompt. */
  addTarget(sequence: Sequence, tokenId: number): void {
    const row = this.#addRow(null);
    this.#targetIds[row] = tokenId;
    this.#temperature[row] = 0;
    this.#topK[row] = 0;
    this.#topP[row] = 1;
    this.#minP[row] = 0;
    this.#setPenalties(row, 1, 0, 0);
    this.#seedLow[row] = 0;
    this.#seedHigh[row] = 0;
    this.#position[row] = 0;
    this.#numLogprobs[row] = sequence.request.sampling.promptLogprobs!;
    this.#biasOffsets[row + 1] = this.#biasOffsets[row]!;
    this.#historyOffsets[row + 1] = this.#historyOffsets[row]!;
  }

  /** A row that draws the token at `position` of a choice. */
  addDraw(sequence: Sequence, choice: number, position: number): void {
    const { sampling, seeds } = sequence.request;
    const row = this.#addRow(sequence);
    this.#targetIds[row] = -1;
    this.#temperature[row] = sampling.temperature;
    this.#topK[row] = sampling.topK;
    this.#topP[row] = sampling.topP;
    this.#minP[row] = sampling.minP;
    this.#setPenalties(row, sampling.repetitionPenalty, sampling.presencePenalty, sampling.frequencyPenalty);
    this.#seedLow[row] = seeds[2 * choice]!;
    this.#seedHigh[row] = seeds[2 * choice + 1]!;
    this.#position[row] = position;
    this.#numLogprobs[row] = sampling.logprobs ?? -1;
    this.#biasOffsets[row + 1] = this.#biasOffsets[row] + countBiases(sequence, position);
    this.#historyOffsets[row + 1] = this.#historyOffsets[row] + (sequence.history?.ids.length ?? 0);
  }

  finish(): SamplingBatch {
    const n = this.#numRows;
    return {
      targetIds: this.#targetIds.subarray(0, n),
      temperature: this.#temperature.subarray(0, n),
      topK: this.#topK.subarray(0, n),
      topP: this.#topP.subarray(0, n),
      minP: this.#minP.subarray(0, n),
      repetitionPenalty: this.#repetitionPenalty.subarray(0, n),
      presencePenalty: this.#presencePenalty.subarray(0, n),
      frequencyPenalty: this.#frequencyPenalty.subarray(0, n),
      seedLow: this.#seedLow.subarray(0, n),
      seedHigh: this.#seedHigh.subarray(0, n),
      position: this.#position.subarray(0, n),
      numLogprobs: this.#numLogprobs.subarray(0, n),
      ...this.#flattenBiases(),
      ...this.#flattenHistories(),
    };
  }

  #addRow(sequence: Sequence | null): number {
    this.#drawing.push(sequence);
    return this.#numRows++;
  }

  #setPenalties(row: number, repetition: number, presence: number, frequency: number): void {
    this.#repetitionPenalty[row] = repetition;
    this.#presencePenalty[row] = presence;
    this.#frequencyPenalty[row] = frequency;
  }

  #flattenBiases(): Pick<SamplingBatch, 'biasOffsets' | 'biasIds' | 'biasValues'> {
    const biasOffsets = this.#biasOffsets.subarray(0, this.#numRows + 1);
    const total = biasOffsets[this.#numRows];
    if (total === 0) return { biasOffsets, biasIds: NONE_I32, biasValues: NONE_F32 };
    const biasIds = new Int32Array(total);
    const biasValues = new Float32Array(total);
    this.#drawing.forEach((sequence, row) => {
      if (sequence) writeBiases(sequence, this.#position[row], biasIds, biasValues, biasOffsets[row]);
    });
    return { biasOffsets, biasIds, biasValues };
  }

  #flattenHistories(): Pick<SamplingBatch, 'historyOffsets' | 'historyIds' | 'historyOutputCounts'> {
    const historyOffsets = this.#historyOffsets.subarray(0, this.#numRows + 1);
    const total = historyOffsets[this.#numRows];
    if (total === 0) return { historyOffsets, historyIds: NONE_I32, historyOutputCounts: NONE_I32 };
    const historyIds = new Int32Array(total);
    const historyOutputCounts = new Int32Array(total);
    this.#drawing.forEach((sequence, row) => {
      if (!sequence?.history) return;
      historyIds.set(sequence.history.ids.view(), historyOffsets[row]);
      historyOutputCounts.set(sequence.history.outputCounts.view(), historyOffsets[row]);
    });
    return { historyOffsets, historyIds, historyOutputCounts };
  }
}

/** Stop tokens are banned until there are `minTokens` output tokens. */
function bansStopTokens({ numPromptTokens, request }: Sequence, position: number): boolean {
  return position - numPromptTokens < request.sampling.minTokens;
}

function countBiases(sequence: Sequence, position: number): number {
  const { sampling, stopTokenIds } = sequence.request;
  return sampling.logitBias.length + (bansStopTokens(sequence, position) ? stopTokenIds.size : 0);
}

function writeBiases(
  sequence: Sequence,
  position: number,
  ids: Int32Array,
  values: Float32Array,
  offset: number,
): void {
  const { sampling, stopTokenIds } = sequence.request;
  let next = offset;
  for (const { tokenId, bias } of sampling.logitBias) {
    ids[next] = tokenId;
    values[next++] = bias;
  }
  if (!bansStopTokens(sequence, position)) return;
  for (const tokenId of stopTokenIds) {
    ids[next] = tokenId;
    values[next++] = -Infinity;
  }
}
