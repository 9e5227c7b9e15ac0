// Launch descriptions of products fused with what makes their x: one kernel for one row, otherwise the launches of both.
import type { KernelQuery } from '../kernel.ts';
import {
  matrixOf,
  optionalMatrix,
  type CudaKernelDescription,
  type CudaLaunch,
  type CudaMatrix,
  type LaunchAttributes,
  type PreparedLaunch,
} from './cuda-kernel.ts';
import { row, ROW_VARIANT, type RowSource } from './linear-row.ts';
import { productOperands } from './product-operands.ts';

type Descriptions = ReadonlyMap<string, CudaKernelDescription>;

interface FedProduct {
  readonly source: string;
  readonly product: string;
  /** Operands that the source must have: the fused op's first. */
  readonly numSourceInputs: number;
  /** Operands of the product that the source makes: x, and its scales if it is of codes. */
  readonly numMade: number;
}

const PRODUCTS_OF_NUMBERS = ['linear', 'weightOnlyLinear', 'gatedLinear', 'gatedWeightOnlyLinear'];
const PRODUCTS_OF_CODES = ['quantizedLinear', 'gatedQuantizedLinear', 'gatedQuantizedLinearQuantize'];

const FED_PRODUCTS: readonly FedProduct[] = [
  ...feeding('rmsNorm', 2),
  ...feeding('addRmsNorm', 3),
  // Nothing is gated twice in a row.
  ...feeding('gatedActivation', 1).filter(({ product }) => !product.startsWith('gated')),
  { source: 'quantize', product: 'quantizedLinear', numSourceInputs: 1, numMade: 2 },
];

function feeding(source: string, numSourceInputs: number): readonly FedProduct[] {
  return [
    ...PRODUCTS_OF_NUMBERS.map((product) => ({ source, product, numSourceInputs, numMade: 1 })),
    ...PRODUCTS_OF_CODES.map((product) => ({
      ...{ source: `${source}Quantize`, product },
      ...{ numSourceInputs, numMade: 2 },
    })),
  ];
}

/** Made of the descriptions of their parts. */
export function fedProducts(parts: readonly CudaKernelDescription[]): readonly CudaKernelDescription[] {
  const byOp = new Map(parts.map((part) => [part.op, part]));
  return FED_PRODUCTS.map((fed) => fedProduct(fed, byOp));
}

function fedProduct(fed: FedProduct, byOp: Descriptions): CudaKernelDescription {
  const [source, product] = [byOp.get(fed.source)!, byOp.get(fed.product)!];
  return {
    op: fed.source + fed.product[0].toUpperCase() + fed.product.slice(1),
    weightLayout: (query) => product.weightLayout(ofProduct(query)),
    lacks: (query) => product.lacks?.(ofProduct(query)) ?? null,
    variants: (query) => product.variants(ofProduct(query)),
    workspaceBytes: (query) => product.workspaceBytes(ofProduct(query)),
    prepare: (launch) => prepare(launch, fed, source, product),
  };
}

function ofProduct(query: KernelQuery): KernelQuery {
  return { ...query, attributes: query.attributes['product'] as LaunchAttributes };
}

function prepare(
  launch: CudaLaunch,
  fed: FedProduct,
  source: CudaKernelDescription,
  product: CudaKernelDescription,
): readonly PreparedLaunch[] {
  const [first, second] = split(launch, fed);
  const isRow = launch.kernel === ROW_VARIANT.kernel;
  const rowSource = isRow ? rowSourceOf(fed, first) : null;
  if (rowSource === null) return [...source.prepare(first), ...product.prepare(second)];
  const calibrated = optionalMatrix(first.inputs[fed.numSourceInputs]);
  return [row(second, { ...productOperands(second), source: rowSource, calibrated })];
}

/** The launches that the two would be. */
function split(
  launch: CudaLaunch,
  { source, product, numSourceInputs, numMade }: FedProduct,
): readonly [CudaLaunch, CudaLaunch] {
  const { outputs, attributes } = launch;
  const inputs = launch.inputs.filter(({ kind }) => kind !== 'none');
  const end = inputs.length - Number(attributes['numOptional']);
  const ofProduct = attributes['product'] as LaunchAttributes;
  const numMadeInAll = outputs.length - ('quantize' in ofProduct ? 2 : 1);
  const made = outputs.slice(0, numMadeInAll);
  return [
    {
      ...launch,
      op: source,
      kernel: source,
      attributes: attributes['source'] as LaunchAttributes,
      // The calibrated scales that a quantize may have.
      inputs: [...inputs.slice(0, numSourceInputs), inputs[end] ?? { kind: 'none' }],
      outputs: made,
    },
    {
      ...launch,
      op: product,
      attributes: ofProduct,
      inputs: [...made.slice(-numMade), ...inputs.slice(numSourceInputs, end)],
      outputs: outputs.slice(numMadeInAll),
    },
  ];
}

/** Null if the kernel cannot read its operands. */
function rowSourceOf(
  { source: op, numSourceInputs }: FedProduct,
  { inputs, outputs, attributes }: CudaLaunch,
): RowSource | null {
  const [x, ...others] = inputs.slice(0, numSourceInputs).map(matrixOf);
  const sum = matrixOf(outputs[0]);
  if (![x, ...others, sum].every(isAligned)) return null;
  if (op === 'quantize') return { kind: 'copy', x };
  if (op.startsWith('gatedActivation'))
    return { kind: 'gatedActivation', x, activation: String(attributes['kind']) };
  const isAfterAdd = op.startsWith('add');
  return {
    kind: 'norm',
    x,
    added: isAfterAdd ? { residual: others[0], sum } : null,
    weight: others.at(-1)!,
    eps: Number(attributes['eps']),
    weightOffset: Number(attributes['weightOffset']),
  };
}

function isAligned({ address }: CudaMatrix): boolean {
  return address % 16 === 0;
}
