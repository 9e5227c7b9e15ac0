// Times the matrix products of a model's layer on the GPU, every kernel that takes them, against roofs measured in the same run.
// node --import tsx bench/micro/cuda-linear.bench.ts [llama-2-7b|llama-3.1-8b]… [1|8|16|64|128|256|1024]…
import { measureRoofs, memoryRoof, type Roofs } from '../../src/bench/cuda/roofs.ts';
import { linear } from '../../src/kernels/cuda/linear.ts';
import { chosen, GpuTimer, matrixAt, ROTATED_BYTES } from './cuda-timing.ts';

const WORKSPACE_BYTES = 32 * 2 ** 20;

interface Product {
  readonly name: string;
  readonly outputs: number;
  readonly inputs: number;
}

function layer(hidden: number, intermediate: number, qkv: number): readonly Product[] {
  return [
    { name: 'qkv', outputs: qkv, inputs: hidden },
    { name: 'o', outputs: hidden, inputs: hidden },
    { name: 'gate, up', outputs: 2 * intermediate, inputs: hidden },
    { name: 'down', outputs: hidden, inputs: intermediate },
  ];
}

const MODELS: Readonly<Record<string, readonly Product[]>> = {
  'llama-2-7b': layer(4096, 11008, 12288),
  'llama-3.1-8b': layer(4096, 14336, 6144),
};
const ROWS = [1, 8, 16, 64, 128, 256, 1024];

const [models, numRows] = chosen(process.argv.slice(2), Object.keys(MODELS), ROWS);
const timer = await GpuTimer.open();
const roofs = measureRoofs(timer.device);
const [weights, x] = [timer.randomNumbers(ROTATED_BYTES), timer.randomNumbers(2 ** 26)];
const y = timer.pool.allocate(2 ** 27);
const workspace = { address: timer.pool.allocate(WORKSPACE_BYTES), bytes: WORKSPACE_BYTES };

console.log(`${timer.device.description}; ${formatRoofs(roofs)}`);
for (const model of models)
  for (const rows of numRows) for (const product of MODELS[model]) printProduct(model, product, rows);
await timer.close();

function printProduct(model: string, { name, outputs, inputs }: Product, rows: number): void {
  const types = {
    weightFormat: null,
    weightDType: 'bfloat16',
    kvDType: 'bfloat16',
    activationDType: 'bfloat16',
  } as const;
  const query = {
    ...types,
    arch: timer.device.target.arch,
    activationPrecision: 'auto',
    attributes: {},
  } as const;
  const sizes = { maxRows: rows, weightRows: outputs, weightColumns: inputs };
  for (const { kernel, maxRows } of linear.variants({ ...query, ...sizes })) {
    if (maxRows !== null && maxRows < rows) continue;
    const us = microseconds(kernel, outputs, inputs, rows);
    const [tbps, tflops] = [(2 * outputs * inputs) / us / 1e6, (2 * outputs * inputs * rows) / us / 1e6];
    const share = Math.max((tbps * 1e12) / memoryRoof(roofs), (tflops * 1e12) / roofs.matmulFlops);
    const columns = [
      `${model} ${name}`.padEnd(22),
      `${outputs} × ${inputs}`.padEnd(14),
      `${rows} rows`.padStart(10),
      kernel.padEnd(9),
      `${us.toFixed(1)} µs`.padStart(10),
      `${tbps.toFixed(2)} TB/s of weights`.padStart(22),
      `${tflops.toFixed(0)} TFLOP/s`.padStart(12),
      `${(100 * share).toFixed(0)} % of the roof`.padStart(18),
    ];
    console.log(columns.join(' '));
  }
}

function microseconds(kernel: string, outputs: number, inputs: number, rows: number): number {
  const product = {
    kernels: linear,
    kernel,
    attributes: {},
    rows,
    weightBytes: 2 * outputs * inputs,
    inputs: (copyStart: number) => [
      matrixAt(x, rows, inputs),
      matrixAt(weights + copyStart, outputs, inputs),
      { kind: 'none' } as const,
    ],
    output: matrixAt(y, rows, outputs),
  };
  return timer.productUs(product, workspace);
}

function formatRoofs({ readBytesPerSecond, copyBytesPerSecond, matmulFlops }: Roofs): string {
  const tera = (value: number): string => (value / 1e12).toFixed(2);
  return `roofs: read ${tera(readBytesPerSecond)} TB/s, copy ${tera(copyBytesPerSecond)} TB/s, bf16 product ${(matmulFlops / 1e12).toFixed(0)} TFLOP/s`;
}
