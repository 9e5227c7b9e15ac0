// Times the matrix products of a model's layer on the GPU, every kernel that takes them, against roofs measured in the same run.
// node --import tsx bench/micro/cuda-linear.bench.ts [llama-2-7b|llama-3.1-8b]… [1|8|16|64|128|256|1024]…
import { measureRoofs, memoryRoof, type Roofs } from '../../src/bench/cuda/roofs.ts';
import { linear } from '../../src/kernels/cuda/linear.ts';
import type { CudaLaunch, CudaMatrix } from '../../src/kernels/cuda/cuda-kernel.ts';
import { countsOf, GpuTimer, ROTATED_BYTES } from './cuda-timing.ts';

const WORKSPACE_BYTES = 32 * 2 ** 20;
const MAX_COPIES = 40;

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

const timer = await GpuTimer.open();
const roofs = measureRoofs(timer.device);
const [weights, x] = [timer.randomNumbers(ROTATED_BYTES), timer.randomNumbers(2 ** 26)];
const y = timer.pool.allocate(2 ** 27);
const workspace = { address: timer.pool.allocate(WORKSPACE_BYTES), bytes: WORKSPACE_BYTES };

const wanted = process.argv.slice(2);
const chosen = <T extends string | number>(all: readonly T[]): readonly T[] => {
  const named = all.filter((each) => wanted.includes(String(each)));
  return named.length > 0 ? named : all;
};
console.log(`${timer.device.description}; ${formatRoofs(roofs)}`);
for (const model of chosen(Object.keys(MODELS)))
  for (const rows of chosen(ROWS)) for (const product of MODELS[model]) printProduct(model, product, rows);
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

/** Of one product, with weights that no cache holds: launches go through copies of them. */
function microseconds(kernel: string, outputs: number, inputs: number, rows: number): number {
  const bytes = 2 * outputs * inputs;
  const numCopies = Math.min(MAX_COPIES, Math.floor(ROTATED_BYTES / bytes));
  const count = timer.pool.upload(new Uint8Array(Int32Array.of(rows, 0).buffer));
  const launches = Array.from({ length: numCopies }, (_, i) =>
    linear.prepare({
      op: 'linear',
      kernel,
      attributes: {},
      inputs: [bf16(x, rows, inputs), bf16(weights + i * bytes, outputs, inputs), { kind: 'none' }],
      outputs: [bf16(y, rows, outputs)],
      rows: 'numTokens',
      addresses: { numTokens: count, numSeqs: 0, numLogitRows: 0, numQueryTiles: 0, queryTiles: 0 },
      workspace: workspace.address,
      blockSize: 16,
      gpu: timer.device.runtime.gpu,
      constant: () => 0,
    } satisfies CudaLaunch),
  ).flat();
  return (1000 * timer.time(launches, countsOf(rows), workspace)) / numCopies;
}

function bf16(address: number, rows: number, columns: number): CudaMatrix {
  return { kind: 'matrix', address, dtype: 'bfloat16', rows, columns, rowStride: columns };
}

function formatRoofs({ readBytesPerSecond, copyBytesPerSecond, matmulFlops }: Roofs): string {
  const tera = (value: number): string => (value / 1e12).toFixed(2);
  return `roofs: read ${tera(readBytesPerSecond)} TB/s, copy ${tera(copyBytesPerSecond)} TB/s, bf16 product ${(matmulFlops / 1e12).toFixed(0)} TFLOP/s`;
}
