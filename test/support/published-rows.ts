// Layers of 8-bit codes `[rows, columns]` for tests of the layouts that publish them so.
import type { TensorToWrite } from '../../src/checkpoint/safetensors.ts';
import { bf16, f32, matrix, randomInts, type PublishLayer } from './ready-made.ts';

/** What the 8 bits of an e4m3 are, from its definition: sign, 4 of exponent (bias 7), 3 of mantissa. */
export function float8(bits: number): number {
  const [sign, exponent, mantissa] = [bits >> 7 ? -1 : 1, (bits >> 3) & 15, (bits & 7) / 8];
  return sign * (exponent === 0 ? 2 ** -6 * mantissa : 2 ** (exponent - 7) * (1 + mantissa));
}

export interface RowLayout {
  readonly type: 'F8_E4M3' | 'I8';
  /** Rows and columns that share a scale, and the shape its tensor has then. */
  readonly block: (rows: number, columns: number) => readonly [number, number];
  readonly scaleShape: (rows: number, columns: number) => readonly number[];
  readonly scaleSuffix: string;
  readonly scaleType?: 'F32' | 'BF16';
  readonly others?: Readonly<Record<string, TensorToWrite>>;
}

export function rowsPublisher({
  type,
  block,
  scaleShape,
  scaleSuffix,
  scaleType,
  others,
}: RowLayout): PublishLayer {
  return (rows, columns, random) => {
    // Of float8, neither NaN nor numbers so large that a few of them are all that counts.
    const codes = randomInts(rows * columns, 256, random).map((code) =>
      type === 'I8' ? code : (code & 0xb7) | 8,
    );
    const [blockRows, blockColumns] = block(rows, columns);
    const groups = Math.ceil(columns / blockColumns);
    const largest = type === 'I8' ? 128 : 1;
    const scales = Array.from(
      { length: Math.ceil(rows / blockRows) * groups },
      () => 2 ** Math.round(Math.log2(0.15 / largest) - random()),
    );
    const value = (code: number): number => (type === 'I8' ? (code << 24) >> 24 : float8(code));
    return {
      tensors: {
        '.weight': { dtype: type, shape: [rows, columns], bytes: Uint8Array.from(codes) },
        [scaleSuffix]: (scaleType === 'BF16' ? bf16 : f32)(scaleShape(rows, columns), scales),
        ...others,
      },
      values: Float32Array.from(
        matrix(rows, columns, (row, column) => {
          const scale = scales[Math.floor(row / blockRows) * groups + Math.floor(column / blockColumns)];
          return value(codes[row * columns + column]) * scale;
        }),
      ),
    };
  };
}

/** One scale for the whole tensor, as a scalar. */
export const PER_TENSOR = {
  block: (rows: number, columns: number) => [rows, columns] as const,
  scaleShape: (): readonly number[] => [],
};

/** One for each row. */
export const PER_CHANNEL = {
  block: (_: number, columns: number) => [1, columns] as const,
  scaleShape: (rows: number): readonly number[] => [rows, 1],
};
