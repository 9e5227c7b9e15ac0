// Fields of a checkpoint's `quantization_config`: each is read as what it must be, or refused with what to do.
import { NeedletailError } from '../../util/errors.ts';
import type { JsonObject } from '../../util/json-file.ts';

const REMEDY = 'take a checkpoint quantized in another way, or one of floats with --quantization';

/** Throws `unsupported_model` unless `value`, or `missing` in its absence, is one of `supported`. */
export function oneOf<T extends string | number | boolean | null>(
  settings: JsonObject,
  field: string,
  supported: readonly T[],
  missing?: T,
): T {
  const value = settings[field] ?? missing ?? null;
  if ((supported as readonly unknown[]).includes(value)) return value as T;
  const choices = supported.map((choice) => JSON.stringify(choice)).join(' or ');
  throw unsupported(`${field} is ${JSON.stringify(value)}, and only ${choices} can be read`);
}

/** Columns that share a scale; null for −1, which is whole rows. */
export function readGroupSize(settings: JsonObject, field = 'group_size'): number | null {
  const size = settings[field];
  if (size === -1) return null;
  if (typeof size === 'number' && Number.isInteger(size) && size > 0) return size;
  throw unsupported(`${field} is ${JSON.stringify(size)}, not a number of columns`);
}

/** How many groups the columns of a weight make. */
export function numGroups(tensor: string, columns: number, groupSize: number | null): number {
  const size = groupSize ?? columns;
  if (columns % size === 0) return columns / size;
  throw unsupported(`groups of ${size} do not divide the ${columns} columns of ${tensor}`);
}

export function unsupported(problem: string, remedy = REMEDY): NeedletailError {
  return new NeedletailError('unsupported_model', `quantization_config: ${problem}; ${remedy}`);
}

/** Whether a field says nothing: absent, false, or empty. */
export function isOff(value: unknown): boolean {
  if (typeof value === 'object' && value !== null) return Object.keys(value).length === 0;
  return !value;
}
