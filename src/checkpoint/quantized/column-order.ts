// Layers whose columns were quantized in another order than they lie in (act-order): columns of a group lie anywhere, so
// codes are brought into the order of their groups, and their input's columns follow them.
import { createHash } from 'node:crypto';
import { packNibbles, unpackNibbles } from '../../tensor/codes.ts';
import type { CodeDType } from '../../tensor/dtype.ts';
import { bytesOf, readWords, type RawTensors } from './raw-tensors.ts';
import { unsupported } from './settings.ts';

export interface ColumnOrder {
  /** The tensor that holds it; layers with equal orders, as those of one input have, share it. */
  readonly tensor: string;
  /** The column that stands at each place. */
  readonly columns: Float32Array;
}

export class ColumnOrders {
  /** Tensors by what they hold. */
  readonly #tensors = new Map<string, string>();

  /**
   * The order in which groups of a layer are runs of `groupSize` columns; null where they are so already. The tensor `name`,
   * int32 `[columns]`, says which group each column is in. Throws `bad_checkpoint` if there is none, `unsupported_model` for
   * groups of other sizes.
   */
  read(
    layer: string,
    name: string,
    columns: number,
    groupSize: number | null,
    raw: RawTensors,
  ): ColumnOrder | null {
    const groups = readWords(raw.claim(name, ['I32'], [columns]));
    const places = Float32Array.from(groups.keys()).sort((a, b) => groups[a] - groups[b] || a - b);
    const size = groupSize ?? columns;
    if (places.some((column, place) => groups[column] !== Math.floor(place / size)))
      throw unsupported(`${name} makes groups of other than ${size} columns, which cannot be read`);
    if (places.every((column, place) => column === place)) return null;
    return { tensor: this.#tensorOf(layer, places), columns: places };
  }

  #tensorOf(layer: string, columns: Float32Array): string {
    const key = createHash('sha256').update(bytesOf(columns)).digest('base64');
    const tensor = this.#tensors.get(key) ?? `${layer}.input_order`;
    this.#tensors.set(key, tensor);
    return tensor;
  }
}

/** Rows of codes, each in the order given. */
export function inColumnOrder(bytes: Uint8Array, dtype: CodeDType, { columns }: ColumnOrder): Uint8Array {
  const codes = dtype === 'uint4' ? unpackNibbles(bytes) : bytes;
  const width = columns.length;
  const ordered = new Uint8Array(codes.length);
  for (let start = 0; start < codes.length; start += width) {
    for (let i = 0; i < width; i++) ordered[start + i] = codes[start + columns[i]];
  }
  return dtype === 'uint4' ? packNibbles(ordered) : ordered;
}
