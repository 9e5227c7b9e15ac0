import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { ALGORITHM_BYTES, type MatmulAlgorithm, type MatmulShape } from '../../ffi/cuda/cublaslt.ts';
import { MatmulTuner, type TunerMachine } from './matmul-tuner.ts';

const SHAPE: MatmulShape = {
  rows: 100,
  outputs: 64,
  inputs: 32,
  xStride: 32,
  yStride: 64,
  dtype: 'bfloat16',
  outputDType: 'bfloat16',
  bias: 0,
  alignment: 256,
};
const PLACES = { x: 0, weight: 0, y: 0, workspace: 0 };

/** Algorithms named by their first byte; one of 0 ms fails. */
function machine(msOf: Readonly<Record<number, number>>): TunerMachine & { readonly measured: number[] } {
  const measured: number[] = [];
  let clockMs = 0;
  const times = new Map<number, number>();
  return {
    measured,
    stream: 0,
    driver: {
      createEvent: () => times.size,
      recordEvent: (event) => void times.set(event, clockMs),
      destroyEvent: () => undefined,
      elapsedMs: () => msOf[measured.at(-1)!],
      synchronize: () => undefined,
    },
    cublasLt: {
      version: 1,
      describe: ({ rows }) => ({ description: rows, weightLayout: 0, xLayout: 0, yLayout: 0 }),
      propose: () => Object.keys(msOf).map((name) => algorithm(Number(name))),
      run: (_, { bytes }) => {
        measured.push(bytes[0]);
        clockMs++;
        if (msOf[bytes[0]] === 0) throw new Error('not supported');
      },
      release: () => undefined,
    },
  };
}

function algorithm(name: number): MatmulAlgorithm {
  return { bytes: new Uint8Array(ALGORITHM_BYTES).fill(name), workspaceBytes: 1000 * name };
}

describe('MatmulTuner', () => {
  let folder: string;
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'needletail-tuner-'));
  });
  afterEach(() => rmSync(folder, { recursive: true }));

  it('takes the fastest algorithm that works', () => {
    const tuner = new MatmulTuner(machine({ 1: 3, 2: 0, 3: 2, 4: 5 }), folder, 'gpu');
    expect(tuner.choose(SHAPE, 1000, PLACES, 0)).toEqual(algorithm(3));
  });

  it('measures once for about as many rows, also over processes', () => {
    new MatmulTuner(machine({ 1: 3, 2: 2 }), folder, 'gpu').choose(SHAPE, 1000, PLACES, 0);
    const other = machine({ 1: 1, 2: 2 });
    const tuner = new MatmulTuner(other, folder, 'gpu');
    expect(tuner.choose({ ...SHAPE, rows: 128 }, 1000, PLACES, 0)).toEqual(algorithm(2));
    expect(other.measured).toEqual([]);
    expect(tuner.choose({ ...SHAPE, rows: 129 }, 1000, PLACES, 0)).toEqual(algorithm(1));
    expect(new MatmulTuner(other, folder, 'another gpu').choose(SHAPE, 1000, PLACES, 0)).toEqual(
      algorithm(1),
    );
  });

  it('has none where cuBLASLt has none', () => {
    expect(new MatmulTuner(machine({}), folder, 'gpu').choose(SHAPE, 1000, PLACES, 0)).toBeNull();
  });

  it.each(['not json', '{"a":1}', '{"a":["ff",1]}', '[]'])('measures again if the file holds %s', (text) => {
    new MatmulTuner(machine({ 1: 1 }), folder, 'gpu').choose(SHAPE, 1000, PLACES, 0);
    writeFileSync(join(folder, readdirSync(folder)[0]), text);
    const tuner = new MatmulTuner(machine({ 2: 1 }), folder, 'gpu');
    expect(tuner.choose(SHAPE, 1000, PLACES, 0)).toEqual(algorithm(2));
  });

  it('works without a folder to write to', () => {
    const file = join(folder, 'file');
    writeFileSync(file, '');
    const tuner = new MatmulTuner(machine({ 1: 1 }), join(file, 'below'), 'gpu');
    expect(tuner.choose(SHAPE, 1000, PLACES, 0)).toEqual(algorithm(1));
  });
});
