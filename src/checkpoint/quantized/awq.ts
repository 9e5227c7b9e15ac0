// AutoAWQ's checkpoints in its `gemm` layout: 4-bit codes, eight rows of a column to a word, in an order of their own.
import type { JsonObject } from '../../util/json-file.ts';
import { transposed } from '../../tensor/transposed.ts';
import { canonicalTensors, inPairs } from './grouped.ts';
import {
  FLOATS,
  readScales,
  readWords,
  type AdaptedTensor,
  type AdaptedTensors,
  type RawTensors,
} from './raw-tensors.ts';
import { numGroups, oneOf, readGroupSize, unsupported } from './settings.ts';

const SUFFIX = '.qweight';
const WORD_ROWS = 8;
/** Which of a word's eight rows each nibble holds, the lowest first. */
const ROW_OF_NIBBLE: readonly number[] = [0, 2, 4, 6, 1, 3, 5, 7];

/**
 * Of a layer [rows, columns]: `qweight` int32 [columns, rows / 8], `qzeros` int32 [groups, rows / 8], `scales`
 * [groups, rows]; value = (code − zero) · scale.
 */
export function adaptAwq(settings: JsonObject, raw: RawTensors): AdaptedTensors {
  checkVersion(settings);
  oneOf(settings, settings['bits'] === undefined ? 'w_bit' : 'bits', [4]);
  oneOf(settings, 'zero_point', [true]);
  const groupSize = readGroupSize(
    settings,
    settings['group_size'] === undefined ? 'q_group_size' : 'group_size',
  );
  const layers = raw.names
    .filter((name) => name.endsWith(SUFFIX))
    .map((name) => name.slice(0, -SUFFIX.length));
  return new Map(layers.flatMap((layer) => adaptLayer(layer, groupSize, raw)));
}

function checkVersion(settings: JsonObject): void {
  const { version = 'gemm' } = settings;
  if (typeof version === 'string' && version.toLowerCase() === 'gemm') return;
  throw unsupported(
    `version is ${JSON.stringify(version)}, and of AutoAWQ's layouts only "gemm" can be read`,
    'quantize the model again with version="GEMM", or take the original with --quantization awq',
  );
}

function adaptLayer(
  layer: string,
  groupSize: number | null,
  raw: RawTensors,
): readonly (readonly [string, AdaptedTensor])[] {
  const [columns, words] = raw.matrixShape(`${layer}${SUFFIX}`);
  const rows = words * WORD_ROWS;
  const groups = numGroups(layer, columns, groupSize);
  const codes = raw.claim(`${layer}${SUFFIX}`, ['I32'], [columns, words]);
  const zeros = raw.claim(`${layer}.qzeros`, ['I32'], [groups, words]);
  const scales = raw.claim(`${layer}.scales`, FLOATS, [groups, rows]);
  return canonicalTensors({
    name: `${layer}.weight`,
    rows,
    columns,
    format: { dtype: 'uint4', groupSize, hasZeros: true },
    codes: () => columnPairs(readWords(codes), columns, words),
    scales: () =>
      inPairs(transposed(readScales(scales), groups), transposed(nibbles(readWords(zeros)), groups)),
  });
}

/** Codes `[rows, columns]`, two neighbouring columns to a byte. */
function columnPairs(packed: Uint32Array, columns: number, words: number): Uint8Array {
  const numPairs = columns / 2;
  const bytes = new Uint8Array(words * WORD_ROWS * numPairs);
  for (let pair = 0; pair < numPairs; pair++) {
    for (let word = 0; word < words; word++) {
      const even = packed[2 * pair * words + word];
      const odd = packed[(2 * pair + 1) * words + word];
      for (let nibble = 0; nibble < WORD_ROWS; nibble++) {
        const row = word * WORD_ROWS + ROW_OF_NIBBLE[nibble];
        bytes[row * numPairs + pair] = ((even >>> (4 * nibble)) & 15) | (((odd >>> (4 * nibble)) & 15) << 4);
      }
    }
  }
  return bytes;
}

/** The numbers of words that lie as a layer's rows do. */
function nibbles(packed: Uint32Array): Uint8Array {
  const numbers = new Uint8Array(packed.length * WORD_ROWS);
  packed.forEach((word, i) => {
    ROW_OF_NIBBLE.forEach((row, nibble) => (numbers[i * WORD_ROWS + row] = (word >>> (4 * nibble)) & 15));
  });
  return numbers;
}
