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

type Descriptions = ReadonlyMap<string, CudaKernelDescription>;

interface FedProduct {
  readonly source: string;
  readonly product: string;
  /** Operands of the source: the fused op's first. */
  readonly numSourceInputs: number;
  /** Operands of the product that the source makes: x, and its scales if it is of codes. */
  readonly numMade: number;
}

const PRODUCTS_OF_NUMBERS = ['linear', 'weightOnlyLinear', 'gatedLinear', 'gatedWeightOnlyLinear'];
const PRODUCTS_OF_CODES = ['quantizedLinear', 'gatedQuantizedLinear'];

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
  const rowSource = isRow ? rowSourceOf(fed.source, first) : null;
  if (rowSource === null) return [...source.prepare(first), ...product.prepare(second)];
  return [rowOf(second, fed.numMade, rowSource)];
}

/** The launches that the two would be. */
function split(
  launch: CudaLaunch,
  { source, product, numSourceInputs, numMade }: FedProduct,
): readonly [CudaLaunch, CudaLaunch] {
  const { inputs, outputs, attributes } = launch;
  const made = outputs.slice(-1 - numMade, -1);
  // The calibrated scale that quantize may have otherwise.
  const noScale = numMade > 1 ? [{ kind: 'none' } as const] : [];
  return [
    {
      ...launch,
      op: source,
      kernel: source,
      attributes: attributes['source'] as LaunchAttributes,
      inputs: [...inputs.slice(0, numSourceInputs), ...noScale],
      outputs: outputs.slice(0, -1),
    },
    {
      ...launch,
      op: product,
      attributes: attributes['product'] as LaunchAttributes,
      inputs: [...made, ...inputs.slice(numSourceInputs)],
      outputs: outputs.slice(-1),
    },
  ];
}

/** Null if the kernel cannot read its operands. */
function rowSourceOf(op: string, { inputs, outputs, attributes }: CudaLaunch): RowSource | null {
  const [x, ...others] = inputs.filter(({ kind }) => kind === 'matrix').map(matrixOf);
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

/** `numMade`: operands of the product that the source makes. */
function rowOf(launch: CudaLaunch, numMade: number, source: RowSource): PreparedLaunch {
  const { inputs, outputs, attributes } = launch;
  const [x, xScales] = inputs.slice(0, numMade).map(matrixOf);
  const weight = matrixOf(inputs[numMade]);
  const isQuantized = 'groupSize' in attributes;
  const [scales, bias] = isQuantized ? inputs.slice(numMade + 1) : [undefined, inputs[numMade + 1]];
  const operands = {
    ...{ source, x, weight },
    xScales: xScales ?? null,
    scales: optionalMatrix(scales),
    bias: optionalMatrix(bias),
    y: matrixOf(outputs[0]),
    gate: 'kind' in attributes ? String(attributes['kind']) : null,
  };
  return row(launch, operands);
}
