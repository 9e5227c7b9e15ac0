// Times products of quantized operands on the GPU, every kernel that takes them, against roofs measured in the same run: weights
// against the reading rate; operations on codes of 8 bits against twice the 16-bit product's rate, which is what the chip has.
// node --import tsx bench/micro/cuda-quantized.bench.ts [llama-2-7b|llama-2-70b|square]… [int8|int4|fp8|w8a8]… [1|8|16|64|…]…
import { measureRoofs, memoryRoof } from '../../src/bench/cuda/roofs.ts';
import type { CudaKernelDescription } from '../../src/kernels/cuda/cuda-kernel.ts';
import { quantizedLinear, weightOnlyLinear } from '../../src/kernels/cuda/quantized-linear.ts';
import { itemSize, type DType } from '../../src/tensor/dtype.ts';
import { scaleColumns, type WeightFormat } from '../../src/tensor/weight-format.ts';
import { chosen, GpuTimer, matrixAt, ROTATED_BYTES } from './cuda-timing.ts';

/** Rows of the largest tile. */
const ROOM = 256;
const ROWS = [1, 8, 16, 32, 64, 128, 192, 256, 384, 1024, 4096];

interface Recipe {
  readonly kernels: CudaKernelDescription;
  readonly weights: WeightFormat;
  /** Of x: numbers for weight-only products, else codes. */
  readonly x: DType;
}

const RECIPES: Readonly<Record<string, Recipe>> = {
  int8: { kernels: weightOnlyLinear, weights: format('int8', null), x: 'bfloat16' },
  int4: { kernels: weightOnlyLinear, weights: format('uint4', 128), x: 'bfloat16' },
  fp8: { kernels: quantizedLinear, weights: format('float8_e4m3fn', null), x: 'float8_e4m3fn' },
  w8a8: { kernels: quantizedLinear, weights: format('int8', null), x: 'int8' },
};

/** Outputs and inputs of QKV, attention output, gate and up, down. */
const MODELS: Readonly<Record<string, readonly (readonly [outputs: number, inputs: number])[]>> = {
  'llama-2-7b': [
    [12288, 4096],
    [4096, 4096],
    [22016, 4096],
    [4096, 11008],
  ],
  'llama-2-70b': [
    [10240, 8192],
    [8192, 8192],
    [57344, 8192],
    [8192, 28672],
  ],
  square: [[8192, 8192]],
};

const [models, recipes, numRows] = chosen(
  process.argv.slice(2),
  Object.keys(MODELS),
  Object.keys(RECIPES),
  ROWS,
);
const timer = await GpuTimer.open();
const roofs = measureRoofs(timer.device);
const largestBytes = 57344 * 8192;
const workspaceBytes = 2 ** 26 + 2 * 22016 * 4096;
const [weights, x] = [
  timer.randomNumbers(Math.max(ROTATED_BYTES, largestBytes)),
  timer.randomNumbers(2 ** 28),
];
// Small enough that codes times scales stay numbers.
const scales = timer.randomNumbers(2 ** 27);
const y = timer.pool.allocate(2 * 57344 * 4096);
const workspace = { address: timer.pool.allocate(workspaceBytes), bytes: 2 ** 25 };

const tera = (value: number): string => (value / 1e12).toFixed(2);
console.log(
  `${timer.device.description}; roofs: read ${tera(memoryRoof(roofs))} TB/s, bf16 product ${tera(roofs.matmulFlops)} TFLOP/s`,
);
for (const model of models)
  for (const recipe of recipes)
    for (const rows of numRows)
      for (const [outputs, inputs] of MODELS[model]) printProduct(recipe, outputs, inputs, rows);
await timer.close();

function format(dtype: WeightFormat['dtype'], groupSize: number | null): WeightFormat {
  return { dtype, groupSize, hasZeros: dtype === 'uint4' };
}

function attributesOf({ weights: { groupSize, hasZeros, dtype } }: Recipe, inputs: number) {
  return { weightDType: dtype, groupSize: groupSize ?? inputs, hasZeros, xGroupSize: inputs };
}

function printProduct(name: string, outputs: number, inputs: number, rows: number): void {
  const recipe = RECIPES[name];
  const query = {
    arch: timer.device.target.arch,
    weightDType: 'bfloat16',
    weightFormat: recipe.weights,
    kvDType: 'bfloat16',
    activationDType: 'bfloat16',
    activationPrecision: 'auto',
    attributes: attributesOf(recipe, inputs),
    maxRows: rows,
    weightRows: outputs,
    weightColumns: inputs,
  } as const;
  if (recipe.kernels.workspaceBytes(query) > workspaceBytes) return;
  const variant = recipe.kernels.variants(query).find(({ maxRows }) => maxRows === null || maxRows >= rows)!;
  const bytes = outputs * inputs * itemSize(recipe.weights.dtype);
  const us = microseconds(recipe, variant.kernel, outputs, inputs, rows);
  const [tbps, tops] = [bytes / us / 1e6, (2 * outputs * inputs * rows) / us / 1e6];
  const rate = roofs.matmulFlops * (recipe.x === 'bfloat16' ? 1 : 2);
  const share = Math.max((tbps * 1e12) / memoryRoof(roofs), (tops * 1e12) / rate);
  const columns = [
    name.padEnd(5),
    `${outputs} × ${inputs}`.padEnd(14),
    `${rows} rows`.padStart(10),
    variant.kernel.padEnd(10),
    `${us.toFixed(1)} µs`.padStart(10),
    `${tbps.toFixed(2)} TB/s of weights`.padStart(22),
    `${tops.toFixed(0)} TOP/s`.padStart(12),
    `${(100 * share).toFixed(0)} % of the roof`.padStart(18),
  ];
  console.log(columns.join(' '));
}

function microseconds(recipe: Recipe, kernel: string, outputs: number, inputs: number, rows: number): number {
  const { dtype } = recipe.weights;
  // As in a plan, x has room for more rows than a step has: what tiles read behind these is memory, which is faster than none.
  const room = ROOM * Math.ceil(rows / ROOM);
  const xOperands = [matrixAt(x, room, inputs, recipe.x)];
  if (recipe.x !== 'bfloat16') xOperands.push(matrixAt(scales, room, 1, 'float32'));
  const product = {
    kernels: recipe.kernels,
    kernel,
    attributes: attributesOf(recipe, inputs),
    rows,
    weightBytes: outputs * inputs * itemSize(dtype),
    inputs: (copyStart: number) => [
      ...xOperands,
      matrixAt(weights + copyStart, outputs, inputs, dtype),
      matrixAt(scales, outputs, scaleColumns(recipe.weights, inputs), 'float32'),
      { kind: 'none' } as const,
    ],
    output: matrixAt(y, rows, outputs),
  };
  return timer.productUs(product, workspace);
}
