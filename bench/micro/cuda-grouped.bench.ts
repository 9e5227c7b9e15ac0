// Times a layer's experts on the GPU, every kernel that takes them, against the roofs measured in the same run.
// node --import tsx bench/micro/cuda-grouped.bench.ts [mixtral-8x7b|gpt-oss-20b|qwen3-30b-a3b]… [1|8|32|64|256|1024]…
import { leastSeconds } from '../../src/bench/cuda/work.ts';
import { Random } from '../../src/bench/random.ts';
import { measureRoofs } from '../../src/bench/cuda/roofs.ts';
import type { CudaLaunch } from '../../src/kernels/cuda/cuda-kernel.ts';
import { gatedGroupedLinear, groupedLinear } from '../../src/kernels/cuda/grouped-linear.ts';
import { chosen, GpuTimer, matrixAt, ROTATED_BYTES } from './cuda-timing.ts';

/** A matrix of each expert. */
interface Product {
  readonly name: string;
  readonly numExperts: number;
  readonly perToken: number;
  readonly outputs: number;
  readonly inputs: number;
  /** Whether each of a token's experts has an input of its own; where not, half of the outputs gates the other. */
  readonly isDown: boolean;
}

function layer(numExperts: number, perToken: number, hidden: number, intermediate: number): Product[] {
  const experts = { numExperts, perToken };
  return [
    { name: 'gate, up', ...experts, outputs: 2 * intermediate, inputs: hidden, isDown: false },
    { name: 'down', ...experts, outputs: hidden, inputs: intermediate, isDown: true },
  ];
}

const MODELS: Readonly<Record<string, readonly Product[]>> = {
  'mixtral-8x7b': layer(8, 2, 4096, 14336),
  'gpt-oss-20b': layer(32, 4, 2880, 2880),
  'qwen3-30b-a3b': layer(128, 8, 2048, 768),
};
const ROWS = [1, 8, 32, 64, 256, 1024];

const [models, numRows] = chosen(process.argv.slice(2), Object.keys(MODELS), ROWS);
const timer = await GpuTimer.open();
const roofs = measureRoofs(timer.device);
const [weights, x] = [timer.randomNumbers(ROTATED_BYTES), timer.randomNumbers(2 ** 26)];
const y = timer.pool.allocate(2 ** 26);
const workspace = { address: timer.pool.allocate(2 ** 27), bytes: 2 ** 27 };

console.log(timer.device.description);
for (const model of models)
  for (const rows of numRows) for (const product of MODELS[model]) printProduct(model, product, rows);
await timer.close();

function printProduct(model: string, product: Product, rows: number): void {
  const { name, numExperts, perToken, outputs, inputs } = product;
  const types = { weightFormat: null, weightDType: 'bfloat16', kvDType: 'bfloat16' } as const;
  const query = {
    ...types,
    activationDType: 'bfloat16',
    activationPrecision: 'auto',
    arch: timer.device.target.arch,
    attributes: attributesOf(product),
    maxRows: rows,
    weightRows: numExperts * outputs,
    weightColumns: inputs,
  } as const;
  const ids = chooseExperts(rows, numExperts, perToken);
  const bytes = 2 * new Set(ids).size * outputs * inputs;
  const flops = 2 * rows * perToken * outputs * inputs;
  const floorUs = 1e6 * leastSeconds({ bytes, flops }, roofs);
  for (const { kernel, maxRows } of groupedLinear.variants(query)) {
    if (maxRows !== null && maxRows < rows) continue;
    const us = microseconds(kernel, product, rows, ids);
    const columns = [
      `${model} ${name}`.padEnd(22),
      `${rows} rows`.padStart(10),
      kernel.padEnd(9),
      `${us.toFixed(1)} µs`.padStart(11),
      `floor ${floorUs.toFixed(1)}`.padStart(14),
      `${(bytes / us / 1e6).toFixed(2)} TB/s`.padStart(12),
      `${(flops / us / 1e6).toFixed(0)} TFLOP/s`.padStart(13),
      `${((100 * floorUs) / us).toFixed(0)} %`.padStart(7),
    ];
    console.log(columns.join(' '));
  }
}

function attributesOf({ numExperts, perToken, isDown }: Product): CudaLaunch['attributes'] {
  const grouping = { numMatrices: numExperts, matricesPerToken: perToken };
  return isDown ? grouping : { ...grouping, kind: 'silu' };
}

/** Different ones for each token, none dearer than another. */
function chooseExperts(rows: number, numExperts: number, perToken: number): Int32Array {
  const random = new Random(1);
  const all = Array.from({ length: numExperts }, (_, expert) => expert);
  return Int32Array.from(Array.from({ length: rows }, () => random.sample(all, perToken)).flat());
}

function microseconds(kernel: string, product: Product, rows: number, ids: Int32Array): number {
  const { numExperts, perToken, outputs, inputs, isDown } = product;
  const idsAt = timer.pool.upload(new Uint8Array(ids.buffer));
  const timed = {
    kernels: isDown ? groupedLinear : gatedGroupedLinear,
    kernel,
    attributes: attributesOf(product),
    rows,
    weightBytes: 2 * numExperts * outputs * inputs,
    inputs: (copyStart: number) => [
      matrixAt(x, rows, isDown ? perToken * inputs : inputs),
      matrixAt(weights + copyStart, numExperts * outputs, inputs),
      matrixAt(idsAt, rows, perToken, 'int32'),
      { kind: 'none' } as const,
    ],
    output: matrixAt(y, rows, (perToken * outputs) / (isDown ? 1 : 2)),
  };
  return timer.productUs(timed, workspace);
}
