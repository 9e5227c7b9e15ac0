// weights.bin of a plan directory: where each weight lies, and a reader.
import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import type { PackedWeightSource } from '../tensor/tensor-source.ts';
import { NeedletailError } from '../util/errors.ts';
import { alignUp } from './place-buffers.ts';
import type { Plan } from './plan.ts';

/** One call reads at most this much: the operating system's limit is 2 GiB. */
const MAX_READ_BYTES = 2 ** 30;

export interface WeightOffsets {
  /** Byte offset of each weight, by its id. */
  readonly offsets: readonly number[];
  readonly totalBytes: number;
}

/** Weights one after the other in the plan's order, each 64-byte aligned so that a mapping can be used as it is. */
export function weightOffsets({ weights }: Plan): WeightOffsets {
  const offsets: number[] = [];
  let totalBytes = 0;
  for (const { bytes } of weights) {
    offsets.push(totalBytes);
    totalBytes += alignUp(bytes);
  }
  return { offsets, totalBytes };
}

export class PackedWeights implements PackedWeightSource {
  readonly path: string;
  readonly #plan: Plan;
  readonly #offsets: readonly number[];
  #file: number | null;

  /** Throws `bad_plan` if the file is missing or not as long as the plan's weights are. */
  constructor(file: string, plan: Plan) {
    const { offsets, totalBytes } = weightOffsets(plan);
    this.path = file;
    this.#plan = plan;
    this.#offsets = offsets;
    this.#file = openWhole(file, totalBytes);
  }

  offsetOf(weightId: number): number {
    return this.#offsets[weightId];
  }

  readPacked(weightId: number): Uint8Array {
    if (this.#file === null) throw new Error(`${this.path} is closed`);
    const bytes = new Uint8Array(this.#plan.weights[weightId].bytes);
    for (let done = 0; done < bytes.length;) {
      const length = Math.min(bytes.length - done, MAX_READ_BYTES);
      const count = readSync(this.#file, bytes, done, length, this.#offsets[weightId] + done);
      if (count === 0) throw damaged(`${this.path} ends inside weight ${this.#plan.weights[weightId].name}`);
      done += count;
    }
    return bytes;
  }

  close(): void {
    if (this.#file !== null) closeSync(this.#file);
    this.#file = null;
  }
}

function openWhole(file: string, totalBytes: number): number {
  let descriptor: number;
  try {
    descriptor = openSync(file, 'r');
  } catch (cause) {
    throw damaged(`${file} cannot be opened (${(cause as NodeJS.ErrnoException).code ?? 'unknown error'})`);
  }
  const { size } = fstatSync(descriptor);
  if (size === totalBytes) return descriptor;
  closeSync(descriptor);
  throw damaged(`${file} has ${size} bytes, the plan's weights take ${totalBytes}`);
}

function damaged(problem: string): NeedletailError {
  return new NeedletailError('bad_plan', `${problem}. Rebuild it: needletail build MODEL --output DIR`);
}
