// Times the matrix products of two models against the machine's limits, measured in the same run.
// node --import tsx bench/micro/linear.bench.ts [tinyllama|tales]… [linear_bf16_dot|quantized_linear_int8|…]… [1|8|32|512]…
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { CpuLibrary } from '../../src/ffi/cpu-library.ts';
import { linear } from '../../src/kernels/cpu/linear.ts';
import { quantizedLinear, weightOnlyLinear } from '../../src/kernels/cpu/quantized-linear.ts';
import type { KernelQuery } from '../../src/kernels/kernel.ts';
import { itemSize, type CodeDType, type FloatDType } from '../../src/tensor/dtype.ts';
import { plainStep } from '../../test/support/check-launch.ts';
import {
  CpuHarness,
  matrix,
  type HarnessLaunch,
  type HarnessOperand,
  type HarnessSession,
  type Matrix,
} from '../../test/support/cpu-harness.ts';

const NUM_RUNS = Number(process.env['NUM_RUNS'] ?? 9);
const numThreads = Number(process.env['NUM_THREADS'] ?? availableParallelism());
const arch = process.env['NEEDLETAIL_CPU_ARCH'] ?? CpuLibrary.available()[0];

interface Shape {
  readonly columns: number;
  readonly depth: number;
}

interface Model {
  /** QKV, attention output, gate and up, down of one layer. */
  readonly layer: readonly Shape[];
  readonly numLayers: number;
  /** Passes over the layers in one timed step: enough to make it milliseconds. */
  readonly numPasses: number;
}

function llamaLayer(hidden: number, intermediate: number, qkvColumns: number): Shape[] {
  return [
    { columns: qkvColumns, depth: hidden },
    { columns: hidden, depth: hidden },
    { columns: 2 * intermediate, depth: hidden },
    { columns: hidden, depth: intermediate },
  ];
}

/** Two layers of TinyLlama are 176 MB in 16 bits, more than caches hold; the shipped model fits a third-level cache. */
const MODELS: Readonly<Record<string, Model>> = {
  tinyllama: { layer: llamaLayer(2048, 5632, 2560), numLayers: 2, numPasses: 1 },
  tales: { layer: llamaLayer(256, 768, 512), numLayers: 8, numPasses: 10 },
};

interface Roofs {
  readonly threads: number;
  readonly readGBps: number;
  readonly multiplyAddGFlops: number;
  readonly bfloat16DotGFlops: number;
  readonly int8DotGops: number;
}

function compileRoofs(): { measure: () => Roofs; remove: () => void } {
  const folder = mkdtempSync(join(tmpdir(), 'needletail-roofs-'));
  const source = fileURLToPath(new URL('roofs.cc', import.meta.url));
  const program = join(folder, 'roofs');
  const flags = ['-O3', '-std=c++17', '-march=native', '-pthread'];
  execFileSync(process.env['CXX'] ?? 'g++', [...flags, source, '-o', program]);
  const measure = (): Roofs =>
    JSON.parse(execFileSync(program, [String(numThreads)], { encoding: 'utf8' })) as Roofs;
  return { measure, remove: () => rmSync(folder, { recursive: true }) };
}

/** One kernel, and how its operands are made. */
interface Product {
  readonly op: string;
  readonly kernel: string;
  /** Largest rate at which its instructions multiply and add, in 10⁹ operations per second. */
  readonly peak: (roofs: Roofs) => number;
  readonly query: (shape: Shape) => KernelQuery;
  readonly x: (rows: number, depth: number) => readonly Matrix[];
  readonly weights: (shape: Shape) => readonly WeightOperand[];
}
type WeightOperand = HarnessOperand & { kind: 'weight' };

const QUERY = {
  arch,
  weightFormat: null,
  kvDType: 'float32',
  activationDType: 'float32',
  maxRows: 512,
  weightRows: 1,
} as const;

function floats(rows: number, depth: number): Matrix {
  return matrix(rows, depth, new Float32Array(rows * depth).fill(0.5));
}

/** All of one layer's values are alike: what they are does not change how long a product takes. */
function weightOperand(
  { columns, depth }: Shape,
  { dtype, layout, value }: Pick<WeightOperand, 'dtype' | 'layout'> & { value: number },
): WeightOperand {
  const values = new Float32Array(columns * depth).fill(value);
  return { kind: 'weight', values, shape: [columns, depth], dtype, layout };
}

function floatProduct(weightDType: FloatDType, activationPrecision: 'auto' | 'float32'): Product {
  const query = ({ depth }: Shape): KernelQuery => ({
    ...QUERY,
    ...{ weightDType, activationPrecision, weightColumns: depth, attributes: {} },
  });
  const [{ kernel }] = linear.variants(query({ columns: 1, depth: 1 }));
  const layout = linear.weightLayout(query({ columns: 1, depth: 1 }));
  return {
    op: 'linear',
    kernel,
    peak: ({ bfloat16DotGFlops, multiplyAddGFlops }) =>
      kernel.endsWith('_dot') ? bfloat16DotGFlops : multiplyAddGFlops,
    query,
    x: (rows, depth) => [floats(rows, depth)],
    weights: (shape) => [weightOperand(shape, { dtype: weightDType, layout, value: 0.01 })],
  };
}

/**
 * int8 and float8 with a scale per row, 4 bits with scales and zeros for 128 columns; activations of int8 with scales for
 * 128 columns, of float8 for a row.
 */
function codeProduct(weightDType: CodeDType, xDType: 'int8' | 'float8_e4m3fn' | null): Product {
  const isNibbles = weightDType === 'uint4';
  const groupSize = (depth: number): number => (isNibbles ? 128 : depth);
  const xGroupSize = (depth: number): number => (xDType === 'int8' ? 128 : depth);
  const description = xDType === null ? weightOnlyLinear : quantizedLinear;
  const query = ({ depth }: Shape): KernelQuery => {
    const groups = { weightDType, groupSize: groupSize(depth), hasZeros: isNibbles };
    const attributes = xDType === null ? groups : { ...groups, xGroupSize: xGroupSize(depth) };
    return {
      ...QUERY,
      ...{ weightDType: 'bfloat16', activationPrecision: 'auto', weightColumns: depth, attributes },
    };
  };
  return {
    op: description.op,
    kernel: description.variants(query({ columns: 1, depth: 128 }))[0].kernel,
    peak: ({ int8DotGops, multiplyAddGFlops }) => (xDType === 'int8' ? int8DotGops : multiplyAddGFlops),
    query,
    x(rows, depth) {
      if (xDType === null) return [floats(rows, depth)];
      const codes = new Float32Array(rows * depth).fill(3);
      return [matrix(rows, depth, codes, { dtype: xDType }), floats(rows, depth / xGroupSize(depth))];
    },
    weights(shape) {
      const scales = {
        columns: shape.columns,
        depth: (shape.depth / groupSize(shape.depth)) * (isNibbles ? 2 : 1),
      };
      return [
        weightOperand(shape, { dtype: weightDType, layout: 'panel16words', value: 5 }),
        weightOperand(scales, { dtype: 'float32', layout: 'panel16', value: 0.01 }),
      ];
    },
  };
}

const PRODUCTS: readonly Product[] = [
  floatProduct('bfloat16', 'auto'),
  floatProduct('bfloat16', 'float32'),
  floatProduct('float16', 'auto'),
  floatProduct('float32', 'auto'),
  codeProduct('int8', 'int8'),
  codeProduct('uint4', 'int8'),
  codeProduct('float8_e4m3fn', 'float8_e4m3fn'),
  codeProduct('int8', null),
  codeProduct('uint4', null),
  codeProduct('float8_e4m3fn', null),
];

function bytesOf({ shape, dtype }: WeightOperand): number {
  return shape[0] * shape[1] * itemSize(dtype);
}

function launches(
  product: Product,
  model: Model,
  weights: readonly (readonly WeightOperand[])[],
  rows: number,
): HarnessLaunch[] {
  const depths = new Map(model.layer.map(({ depth }) => [depth, product.x(rows, depth)]));
  const outputs = new Map<number, Matrix>(model.layer.map(({ columns }) => [columns, matrix(rows, columns)]));
  const pass = weights.map((operands, i) => {
    const shape = model.layer[i % model.layer.length];
    const query = product.query(shape);
    return {
      op: product.op,
      attributes: query.attributes as HarnessLaunch['attributes'],
      inputs: [...depths.get(shape.depth)!, ...operands, { kind: 'none' }],
      outputs: [outputs.get(shape.columns)!],
      query,
    } satisfies HarnessLaunch;
  });
  return new Array(model.numPasses).fill(pass).flat() as HarnessLaunch[];
}

/** Milliseconds of each run, in ascending order. */
async function timeRuns(session: HarnessSession, work: HarnessLaunch[], rows: number): Promise<number[]> {
  const program = session.prepare(work, plainStep(rows));
  const times: number[] = [];
  for (let i = -1; i < NUM_RUNS; i++) {
    const start = performance.now();
    await program.run();
    if (i >= 0) times.push(performance.now() - start);
  }
  program.free();
  return times.sort((a, b) => a - b);
}

async function benchKernel(name: string, product: Product, rowCounts: number[], roofs: Roofs): Promise<void> {
  const model = MODELS[name];
  const harness = new CpuHarness(arch, numThreads);
  const layers = new Array(model.numLayers).fill(model.layer).flat() as Shape[];
  const weights = layers.map((shape) => product.weights(shape));
  const elements = layers.reduce((sum, { columns, depth }) => sum + columns * depth, 0);
  const bytes = weights.flat().reduce((sum, operand) => sum + bytesOf(operand), 0);
  const peak = product.peak(roofs);
  for (const rows of rowCounts) {
    const session = harness.session();
    const times = await timeRuns(session, launches(product, model, weights, rows), rows);
    session.free();
    const columns = [times[0], times[times.length >> 1]].map((total) => {
      const ms = total / model.numPasses;
      const gbps = bytes / ms / 1e6;
      const gflops = (2 * elements * rows) / ms / 1e6;
      const read = `${gbps.toFixed(1).padStart(6)} GB/s (${percent(gbps, roofs.readGBps)})`;
      return `${ms.toFixed(3).padStart(9)} ms ${read} ${gflops.toFixed(1).padStart(7)} Gop/s (${percent(gflops, peak)})`;
    });
    console.log(
      `${name.padEnd(10)} ${product.kernel.padEnd(24)} ${String(rows).padStart(4)} rows  best ${columns.join('  median ')}`,
    );
  }
  harness.close();
}

function percent(value: number, limit: number): string {
  return `${((100 * value) / limit).toFixed(0).padStart(3)} %`;
}

function formatRoofs({ readGBps, multiplyAddGFlops, bfloat16DotGFlops, int8DotGops }: Roofs): string {
  return `limits: read ${readGBps} GB/s, float32 multiply-add ${multiplyAddGFlops} GFLOP/s, bfloat16 dot ${bfloat16DotGFlops} GFLOP/s, int8 dot ${int8DotGops} Gop/s`;
}

const wanted = process.argv.slice(2);
const isWanted = (name: string, all: readonly string[]): boolean =>
  wanted.includes(name) || !wanted.some((word) => all.includes(word));
const rowCounts = ['1', '8', '32', '512'].filter((rows, _, all) => isWanted(rows, all)).map(Number);
const names = PRODUCTS.map(({ kernel }) => kernel);
const products = PRODUCTS.filter(({ kernel }, i) => names.indexOf(kernel) === i && isWanted(kernel, names));
const roofs = compileRoofs();
const before = roofs.measure();
console.log(`${arch}, ${numThreads} threads; ${formatRoofs(before)}`);
for (const name of Object.keys(MODELS).filter((name, _, all) => isWanted(name, all))) {
  for (const product of products) await benchKernel(name, product, rowCounts, before);
}
console.log(`after: ${formatRoofs(roofs.measure())}`);
roofs.remove();
