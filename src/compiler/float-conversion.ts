// Floats from one type to another, bit by bit.
import {
  fromBfloat16Bits,
  fromFloat16Bits,
  toBfloat16Bits,
  toFloat16Bits,
  type FloatDType,
} from '../tensor/dtype.ts';
import { sameBits, type Bits } from './weight-bits.ts';

/** Converts with round-to-nearest-even; what it looks up it looks up again, so keep it. */
export class FloatConversion {
  readonly #tables = new Map<string, Bits>();

  convert(bits: Bits, from: FloatDType, to: FloatDType): Bits {
    if (from === to) return bits;
    if (from === 'float32') return narrow(bits, to === 'bfloat16' ? toBfloat16Bits : toFloat16Bits);
    const table = this.#table(from, to);
    const converted = sameBits(table, bits.length);
    for (let i = 0; i < bits.length; i++) converted[i] = table[bits[i]]!;
    return converted;
  }

  #table(from: FloatDType, to: FloatDType): Bits {
    const key = `${from} ${to}`;
    const table = this.#tables.get(key) ?? conversionTable(from, to);
    this.#tables.set(key, table);
    return table;
  }
}

function narrow(bits: Bits, round: (value: number) => number): Uint16Array {
  const values = new Float32Array(bits.buffer, bits.byteOffset, bits.length);
  const converted = new Uint16Array(bits.length);
  for (let i = 0; i < bits.length; i++) converted[i] = round(values[i]);
  return converted;
}

/** What each of the 65536 values of a 16-bit type becomes. */
function conversionTable(from: FloatDType, to: FloatDType): Bits {
  const decode = from === 'bfloat16' ? fromBfloat16Bits : fromFloat16Bits;
  const values = Float32Array.from({ length: 0x10000 }, (_, bits) => decode(bits));
  if (to === 'float32') return new Uint32Array(values.buffer);
  return Uint16Array.from(values, to === 'bfloat16' ? toBfloat16Bits : toFloat16Bits);
}
