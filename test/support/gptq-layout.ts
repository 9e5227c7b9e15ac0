// GPTQ's checkpoints in both versions of the format, written bit by bit from the published layout.
import {
  f16,
  i32,
  matrix,
  randomInts,
  randomScales,
  type PublishLayer,
  type ReadyMade,
} from './ready-made.ts';

export interface GptqVariant {
  /** Columns of a group lie anywhere, as desc_act leaves them. */
  readonly isOrdered?: boolean;
  readonly bits: 4 | 8;
  readonly sym: boolean;
  readonly version: 'gptq' | 'gptq_v2';
  readonly groupSize: number;
}

export const GPTQ_V1: GptqVariant = { bits: 4, sym: false, version: 'gptq', groupSize: 32 };

/** A word of numbers, the first in the lowest bits. */
function word(bits: number, number: (i: number) => number): number {
  return Array.from({ length: 32 / bits }, (_, i) => number(i) << (bits * i)).reduce((all, one) => all | one);
}

function publisher({ bits, sym, version, groupSize, isOrdered = false }: GptqVariant): PublishLayer {
  return (rows, columns, random) => {
    const size = groupSize === -1 ? columns : groupSize;
    const [groups, perWord] = [columns / size, 32 / bits];
    const codes = randomInts(columns * rows, 2 ** bits, random); // [columns, rows]
    const zeros = sym
      ? Array<number>(groups * rows).fill(2 ** (bits - 1))
      : randomInts(groups * rows, 2 ** bits - 1, random).map((zero) => zero + 1); // [groups, rows]
    const scales = randomScales(groups * rows, 2 ** (bits - 1), random);
    // One order for all layers of as many columns; 5 and these have no common divisor.
    const groupOf = (column: number) => Math.floor((isOrdered ? (5 * column + 3) % columns : column) / size);
    const stored = version === 'gptq' ? zeros.map((zero) => zero - 1) : zeros;
    const weightWords = matrix(columns / perWord, rows, (w, row) =>
      word(bits, (i) => codes[(w * perWord + i) * rows + row]),
    );
    const zeroWords = matrix(groups, rows / perWord, (group, w) =>
      word(bits, (i) => stored[group * rows + w * perWord + i]),
    );
    return {
      tensors: {
        '.qweight': i32([columns / perWord, rows], weightWords),
        '.qzeros': i32([groups, rows / perWord], zeroWords),
        '.scales': f16([groups, rows], scales),
        '.g_idx': i32(
          [columns],
          Array.from({ length: columns }, (_, column) => groupOf(column)),
        ),
      },
      values: Float32Array.from(
        matrix(rows, columns, (row, column) => {
          const group = groupOf(column) * rows + row;
          return (codes[column * rows + row] - zeros[group]) * scales[group];
        }),
      ),
    };
  };
}

/** A reference model in GPTQ's layout; `settings` stand in place of what the variant says. */
export function gptqCheckpoint(variant: GptqVariant, settings: object = {}): ReadyMade {
  const { bits, sym, version, groupSize, isOrdered = false } = variant;
  const config = { quant_method: 'gptq', bits, sym, group_size: groupSize, desc_act: isOrdered };
  return {
    model: 'llama3_gqa',
    quantizationConfig: {
      ...config,
      ...(version === 'gptq_v2' && { checkpoint_format: version }),
      ...settings,
    },
    publish: publisher(variant),
  };
}
