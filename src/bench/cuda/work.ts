// The least work of a step, counted from its plan: bytes that must be read, operations that must be done.
import type { Launch, Plan } from '../../compiler/plan.ts';
import { OPS } from '../../ir/ops/index.ts';
import { gatedName } from '../../ir/ops/gated-products.ts';
import { FED_PRODUCTS } from '../../ir/ops/product-fusions.ts';
import { quantizingName } from '../../ir/ops/quantize-fusions.ts';
import { memoryRoof, type Roofs } from './roofs.ts';

export interface Work {
  readonly bytes: number;
  readonly flops: number;
}

/** Equal sequences of a step. */
export interface StepPart {
  /** On average: it need not be whole. */
  readonly numSeqs: number;
  /** New tokens of each, and tokens in its cache after the step. */
  readonly numTokens: number;
  readonly contextLen: number;
}

export interface StepShape {
  readonly seqs: readonly StepPart[];
}

/** Weights once (of experts those that are chosen), every KV cache once; activations are small beside them. */
export function stepWork(plan: Plan, { seqs }: StepShape): Work {
  const numSeqs = seqs.reduce((sum, part) => sum + part.numSeqs, 0);
  const numTokens = seqs.reduce((sum, part) => sum + part.numSeqs * part.numTokens, 0);
  const rows = { numTokens, numSeqs, numLogitRows: numSeqs };
  let bytes = 0;
  let flops = 0;
  for (const launch of plan.launches) {
    const { size, itemBytes, flopsPerElement } = matrixOf(launch, plan);
    const { matrixShare, rowShare } = groupsOf(launch, rows[launch.rows]);
    bytes += matrixShare * size * itemBytes;
    flops += flopsPerElement * size * rowShare * rows[launch.rows];
  }
  for (const { bytesPerToken, layers } of plan.kvCacheGroups)
    for (const part of seqs) {
      bytes += bytesPerToken * part.numSeqs * part.contextLen;
      // Every query sees on average all but half of the new tokens: scores, then a weighted sum.
      const pairs = part.numSeqs * part.numTokens * (part.contextLen - part.numTokens / 2);
      flops += layers.length * 4 * queryWidth(plan) * pairs;
    }
  return { bytes, flops };
}

/** Seconds that the roofs allow at best: memory and arithmetic at the same time. */
export function leastSeconds({ bytes, flops }: Work, roofs: Roofs): number {
  return Math.max(bytes / memoryRoof(roofs), flops / roofs.matmulFlops);
}

export function utilization(
  { bytes, flops }: Work,
  seconds: number,
  roofs: Roofs,
): { mbu: number; mfu: number } {
  return { mbu: bytes / seconds / memoryRoof(roofs), mfu: flops / seconds / roofs.matmulFlops };
}

const PRODUCT_NAMES = [
  'linear',
  'weightOnlyLinear',
  'quantizedLinear',
  'groupedLinear',
  'weightOnlyGroupedLinear',
  'quantizedGroupedLinear',
];

/** The product that each op without a source is, by the op's name. */
const UNFED_PRODUCTS = new Map(
  PRODUCT_NAMES.flatMap((name) =>
    [name, gatedName(name), quantizingName(gatedName(name))].map((fused) => [fused, name] as const),
  ),
);

/** The product that each op is or contains, by the op's name. */
const PRODUCTS: ReadonlyMap<string, string> = new Map([
  ...UNFED_PRODUCTS,
  ...FED_PRODUCTS.map(({ op, product }) => [op.name, UNFED_PRODUCTS.get(product.name)!] as const),
]);

/** The weight matrix that a launch multiplies with; a product of codes runs at twice the rate, and counts half. */
function matrixOf(
  { op, inputs }: Launch,
  plan: Plan,
): { size: number; itemBytes: number; flopsPerElement: number } {
  const none = { size: 0, itemBytes: 0, flopsPerElement: 0 };
  const product = PRODUCTS.get(op);
  if (product === undefined) return none;
  const operand = inputs[OPS.get(op)!.matrixInput!];
  if (operand?.kind !== 'weight') return none;
  const { shape, bytes } = plan.weights[operand.id];
  const size = shape.reduce((product, length) => product * length, 1);
  return { size, itemBytes: bytes / size, flopsPerElement: product.startsWith('quantized') ? 1 : 2 };
}

/**
 * Of experts: how many of their matrices at least one of `numRows` rows goes to, on average if all are chosen equally often, and
 * how many each row goes to, as shares of all.
 */
function groupsOf(
  { op, attributes }: Launch,
  numRows: number,
): { readonly matrixShare: number; readonly rowShare: number } {
  if (!PRODUCTS.get(op)?.endsWith('roupedLinear')) return { matrixShare: 1, rowShare: 1 };
  const { numMatrices, matricesPerToken } = attributes as { numMatrices: number; matricesPerToken: number };
  const rowShare = matricesPerToken / numMatrices;
  return { matrixShare: 1 - (1 - rowShare) ** numRows, rowShare };
}

/** Heads times their width. */
function queryWidth(plan: Plan): number {
  const launch = plan.launches.find(({ op }) => op === 'attention' || op === quantizingName('attention'));
  const { numHeads = 0, headDim = 0 } = (launch?.attributes ?? {}) as { numHeads?: number; headDim?: number };
  return numHeads * headDim;
}
