// Times the matrix products of two models against the machine's limits, measured in the same run.
// node --import tsx bench/micro/linear.bench.ts [tinyllama|tales]… [linear_bf16_dot|linear_fp16|…]… [1|8|32|512]…
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { CpuLibrary } from '../../src/ffi/cpu-library.ts';
import { linear } from '../../src/kernels/cpu/linear.ts';
import type { KernelQuery } from '../../src/kernels/kernel.ts';
import { itemSize } from '../../src/tensor/dtype.ts';
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

/** The kernels that this instruction set has. */
function queries(): KernelQuery[] {
  const rest = {
    arch,
    weightFormat: null,
    kvDType: 'float32',
    activationDType: 'float32',
    maxRows: 512,
    weightRows: 1,
    weightColumns: 1,
    attributes: {},
  } as const;
  return [
    { ...rest, weightDType: 'bfloat16', activationPrecision: 'auto' },
    { ...rest, weightDType: 'bfloat16', activationPrecision: 'float32' },
    { ...rest, weightDType: 'float16', activationPrecision: 'auto' },
    { ...rest, weightDType: 'float32', activationPrecision: 'auto' },
  ];
}

/** All of one layer's values are alike: what they are does not change how long a product takes. */
function weightOperand(query: KernelQuery, { columns, depth }: Shape): HarnessOperand {
  const values = new Float32Array(columns * depth).fill(0.01);
  const shape = [columns, depth];
  return { kind: 'weight', values, shape, dtype: query.weightDType, layout: linear.weightLayout(query) };
}

function launches(
  query: KernelQuery,
  model: Model,
  weights: HarnessOperand[],
  rows: number,
): HarnessLaunch[] {
  const depths = new Map(
    model.layer.map(({ depth }) => [depth, matrix(rows, depth, new Float32Array(rows * depth).fill(0.5))]),
  );
  const outputs = new Map<number, Matrix>(model.layer.map(({ columns }) => [columns, matrix(rows, columns)]));
  const pass = weights.map((weight, i) => {
    const { columns, depth } = model.layer[i % model.layer.length];
    return {
      op: 'linear',
      attributes: {},
      inputs: [depths.get(depth)!, weight, { kind: 'none' }],
      outputs: [outputs.get(columns)!],
      query: { ...query, weightColumns: depth },
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

async function benchKernel(
  name: string,
  query: KernelQuery,
  rowCounts: number[],
  roofs: Roofs,
): Promise<void> {
  const model = MODELS[name];
  const kernel = linear.variants(query)[0].kernel;
  const harness = new CpuHarness(arch, numThreads);
  const layers = new Array(model.numLayers).fill(model.layer).flat() as Shape[];
  const weights = layers.map((shape) => weightOperand(query, shape));
  const elements = layers.reduce((sum, { columns, depth }) => sum + columns * depth, 0);
  const peak = kernel.endsWith('_dot') ? roofs.bfloat16DotGFlops : roofs.multiplyAddGFlops;
  for (const rows of rowCounts) {
    const session = harness.session();
    const times = await timeRuns(session, launches(query, model, weights, rows), rows);
    session.free();
    const columns = [times[0], times[times.length >> 1]].map((total) => {
      const ms = total / model.numPasses;
      const gbps = (elements * itemSize(query.weightDType)) / ms / 1e6;
      const gflops = (2 * elements * rows) / ms / 1e6;
      const read = `${gbps.toFixed(1).padStart(6)} GB/s (${percent(gbps, roofs.readGBps)})`;
      return `${ms.toFixed(3).padStart(9)} ms ${read} ${gflops.toFixed(1).padStart(7)} GFLOP/s (${percent(gflops, peak)})`;
    });
    console.log(
      `${name.padEnd(10)} ${kernel.padEnd(16)} ${String(rows).padStart(4)} rows  best ${columns.join('  median ')}`,
    );
  }
  harness.close();
}

function percent(value: number, limit: number): string {
  return `${((100 * value) / limit).toFixed(0).padStart(3)} %`;
}

function formatRoofs({ readGBps, multiplyAddGFlops, bfloat16DotGFlops }: Roofs): string {
  return `limits: read ${readGBps} GB/s, float32 multiply-add ${multiplyAddGFlops} GFLOP/s, bfloat16 dot ${bfloat16DotGFlops} GFLOP/s`;
}

const wanted = process.argv.slice(2);
const isWanted = (name: string, all: readonly string[]): boolean =>
  wanted.includes(name) || !wanted.some((word) => all.includes(word));
const rowCounts = ['1', '8', '32', '512'].filter((rows, _, all) => isWanted(rows, all)).map(Number);
const kernels = queries().filter((_, i, all) => {
  const names = all.map((each) => linear.variants(each)[0].kernel);
  return names.indexOf(names[i]) === i && isWanted(names[i], names);
});
const roofs = compileRoofs();
const before = roofs.measure();
console.log(`${arch}, ${numThreads} threads; ${formatRoofs(before)}`);
for (const name of Object.keys(MODELS).filter((name, _, all) => isWanted(name, all))) {
  for (const query of kernels) await benchKernel(name, query, rowCounts, before);
}
console.log(`after: ${formatRoofs(roofs.measure())}`);
roofs.remove();
