// Builds the arrays of a SamplingBatch from one readable record per row.
import type { SamplingBatch } from '../../src/device/step.ts';

/** Everything off by default: temperature 1, no cut, no penalty, no log-probabilities. */
export interface SamplingRow {
  readonly targetId?: number;
  readonly temperature?: number;
  readonly topK?: number;
  readonly topP?: number;
  readonly minP?: number;
  readonly repetitionPenalty?: number;
  readonly presencePenalty?: number;
  readonly frequencyPenalty?: number;
  readonly seedLow?: number;
  readonly seedHigh?: number;
  readonly position?: number;
  readonly numLogprobs?: number;
  readonly bias?: readonly { readonly id: number; readonly value: number }[];
  readonly history?: readonly { readonly id: number; readonly outputCount: number }[];
}

export function samplingBatch(rows: readonly SamplingRow[]): SamplingBatch {
  const biases = rows.map((row) => row.bias ?? []);
  const histories = rows.map((row) => row.history ?? []);
  return {
    targetIds: Int32Array.from(rows, (row) => row.targetId ?? -1),
    temperature: Float32Array.from(rows, (row) => row.temperature ?? 1),
    topK: Int32Array.from(rows, (row) => row.topK ?? 0),
    topP: Float32Array.from(rows, (row) => row.topP ?? 1),
    minP: Float32Array.from(rows, (row) => row.minP ?? 0),
    repetitionPenalty: Float32Array.from(rows, (row) => row.repetitionPenalty ?? 1),
    presencePenalty: Float32Array.from(rows, (row) => row.presencePenalty ?? 0),
    frequencyPenalty: Float32Array.from(rows, (row) => row.frequencyPenalty ?? 0),
    seedLow: Uint32Array.from(rows, (row) => row.seedLow ?? 0),
    seedHigh: Uint32Array.from(rows, (row) => row.seedHigh ?? 0),
    position: Uint32Array.from(rows, (row) => row.position ?? 0),
    numLogprobs: Int32Array.from(rows, (row) => row.numLogprobs ?? -1),
    biasOffsets: offsetsOf(biases),
    biasIds: Int32Array.from(biases.flat(), (entry) => entry.id),
    biasValues: Float32Array.from(biases.flat(), (entry) => entry.value),
    historyOffsets: offsetsOf(histories),
    historyIds: Int32Array.from(histories.flat(), (entry) => entry.id),
    historyOutputCounts: Int32Array.from(histories.flat(), (entry) => entry.outputCount),
  };
}

function offsetsOf(lists: readonly (readonly unknown[])[]): Int32Array {
  const offsets = new Int32Array(lists.length + 1);
  lists.forEach((list, i) => (offsets[i + 1] = offsets[i] + list.length));
  return offsets;
}
