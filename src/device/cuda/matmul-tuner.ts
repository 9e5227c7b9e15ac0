// Which of cuBLASLt's algorithms does a product fastest: measured once per GPU, library version and shape, and kept on disk.
import { randomUUID } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  ALGORITHM_BYTES,
  type CublasLt,
  type Matmul,
  type MatmulAlgorithm,
  type MatmulPlaces,
  type MatmulShape,
} from '../../ffi/cuda/cublaslt.ts';
import type { CudaDriver } from '../../ffi/cuda/driver.ts';
import type { Address } from '../../ffi/native-memory.ts';

const MAX_CANDIDATES = 12;
const NUM_ROUNDS = 5;

export interface TunerMachine {
  readonly driver: Pick<
    CudaDriver,
    'createEvent' | 'recordEvent' | 'destroyEvent' | 'elapsedMs' | 'synchronize'
  >;
  readonly cublasLt: Pick<CublasLt, 'version' | 'describe' | 'propose' | 'run' | 'release'>;
  readonly stream: Address;
}

export class MatmulTuner {
  readonly #machine: TunerMachine;
  readonly #directory: string;
  readonly #path: string;
  readonly #choices: Map<string, MatmulAlgorithm>;

  /** `directory`: where choices are kept; `gpu`: what they hold for. */
  constructor(machine: TunerMachine, directory: string, gpu: string) {
    this.#machine = machine;
    this.#directory = directory;
    const name = `${gpu}-cublaslt-${machine.cublasLt.version}`.toLowerCase().replaceAll(/[^a-z0-9-]+/g, '-');
    this.#path = join(directory, `${name}.json`);
    this.#choices = readChoices(this.#path);
  }

  /**
   * The best algorithm for about as many rows; null if there is none. The first time it is measured: products of up to
   * `maxRows` rows are done many times over, with the same result for the step's rows, and the stream is waited for.
   */
  choose(
    shape: MatmulShape,
    maxRows: number,
    places: MatmulPlaces,
    maxWorkspaceBytes: number,
  ): MatmulAlgorithm | null {
    const measured = { ...shape, rows: Math.min(maxRows, roundRows(shape.rows)) };
    const key = keyOf(measured);
    const known = this.#choices.get(key);
    if (known) return known;
    const best = this.#findBest(measured, places, maxWorkspaceBytes);
    if (best) this.#keep(key, best);
    return best;
  }

  #findBest(shape: MatmulShape, places: MatmulPlaces, maxWorkspaceBytes: number): MatmulAlgorithm | null {
    const { cublasLt } = this.#machine;
    const matmul = cublasLt.describe(shape);
    const candidates = cublasLt.propose(matmul, shape, maxWorkspaceBytes, MAX_CANDIDATES);
    const times = candidates.map(() => Infinity);
    // In turns: the GPU's clock may rise or fall meanwhile.
    for (let round = 0; round < NUM_ROUNDS; round++)
      candidates.forEach((algorithm, i) => {
        times[i] = Math.min(times[i], this.#measure(matmul, algorithm, places));
      });
    cublasLt.release(matmul);
    return candidates[times.indexOf(Math.min(...times))] ?? null;
  }

  /** Milliseconds of one run; infinite if it does not work. */
  #measure(matmul: Matmul, algorithm: MatmulAlgorithm, places: MatmulPlaces): number {
    const { driver, cublasLt, stream } = this.#machine;
    const [start, end] = [driver.createEvent(), driver.createEvent()];
    try {
      driver.recordEvent(start, stream);
      cublasLt.run(matmul, algorithm, places, stream);
      driver.recordEvent(end, stream);
      driver.synchronize(stream);
      return driver.elapsedMs(start, end);
    } catch {
      return Infinity;
    } finally {
      for (const event of [start, end]) driver.destroyEvent(event);
    }
  }

  /** Moved into place whole, with what other processes found meanwhile. A folder that cannot be written is no loss. */
  #keep(key: string, choice: MatmulAlgorithm): void {
    this.#choices.set(key, choice);
    const temporary = `${this.#path}.${randomUUID()}`;
    try {
      mkdirSync(this.#directory, { recursive: true });
      for (const [other, found] of readChoices(this.#path))
        if (!this.#choices.has(other)) this.#choices.set(other, found);
      writeFileSync(temporary, formatChoices(this.#choices));
      renameSync(temporary, this.#path);
    } catch {
      if (existsSync(temporary)) rmSync(temporary);
    }
  }
}

/** Numbers of rows are rounded up to an eighth of the power of two below, and to 64 at least, so that few are measured. */
function roundRows(rows: number): number {
  const step = Math.max(64, 2 ** Math.floor(Math.log2(rows)) / 8);
  return Math.ceil(rows / step) * step;
}

/** All that an algorithm's speed and fitness follow, but where the numbers lie. */
function keyOf({
  rows,
  outputs,
  inputs,
  xStride,
  yStride,
  dtype,
  outputDType,
  bias,
  alignment,
}: MatmulShape): string {
  const sizes = [rows, outputs, inputs, xStride, yStride].join(' ');
  return `${sizes} ${dtype} ${outputDType} ${bias === 0 ? 'plain' : 'bias'} ${alignment}`;
}

type StoredChoices = Readonly<Record<string, readonly [hex: string, workspaceBytes: number]>>;

/** Empty if there are none, or none that can be read. */
function readChoices(path: string): Map<string, MatmulAlgorithm> {
  try {
    const stored = JSON.parse(readFileSync(path, 'utf8')) as StoredChoices;
    const choices = Object.entries(stored).map(
      ([key, [hex, workspaceBytes]]) =>
        [key, { bytes: new Uint8Array(Buffer.from(hex, 'hex')), workspaceBytes }] as const,
    );
    return new Map(choices.filter(([, { bytes }]) => bytes.length === ALGORITHM_BYTES));
  } catch {
    return new Map();
  }
}

function formatChoices(choices: ReadonlyMap<string, MatmulAlgorithm>): string {
  const lines = [...choices].map(
    ([key, { bytes, workspaceBytes }]) =>
      `  ${JSON.stringify(key)}: ${JSON.stringify([Buffer.from(bytes).toString('hex'), workspaceBytes])}`,
  );
  return `{\n${lines.sort().join(',\n')}\n}\n`;
}
