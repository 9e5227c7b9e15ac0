// Writes a plan as text for people: what is stored, what lies where, and every launch in order.
import type { Attributes, AttributeValue } from '../ir/graph.ts';
import { formatShape } from '../tensor/shape.ts';
import { describeFormat } from '../tensor/weight-format.ts';
import { formatBytes, formatCount } from '../util/format-bytes.ts';
import { fixedBytes } from './memory-budget.ts';
import type {
  BufferOperand,
  BufferSpec,
  KVCacheGroup,
  Launch,
  Operand,
  Plan,
  RopeTable,
  WeightSpec,
} from './plan.ts';

/** The whole plan; weights are `w0`, buffers `b0`, tables of angles `r0`, layers' caches `kv0`. */
export function printPlan(plan: Plan): string {
  return [
    ...printHeader(plan),
    ...section('weights', plan.weights, printWeight),
    ...section('rope tables', plan.ropeTables, printTable),
    ...section('kv cache groups', plan.kvCacheGroups, printGroup),
    ...section('buffers', plan.buffers, printBuffer),
    ...section('launches', plan.launches, (launch) => printLaunch(launch, plan)),
    `logits: ${printOperand(plan.logits, plan)}`,
    '',
  ].join('\n');
}

function printHeader({ header, model, limits, ...plan }: Plan): readonly string[] {
  const { weightBytes, ropeTableBytes, activationBytes, workspaceBytes } = fixedBytes({
    header,
    model,
    limits,
    ...plan,
  });
  return [
    `plan of ${model.modelType}: ${model.numLayers} layers, hidden ${model.hiddenSize}, vocabulary ${model.vocabSize}, ` +
      `${formatCount(model.numParameters)} parameters`,
    `target ${header.target.kind} ${header.target.arch}, recipe ${header.recipe}, activations ${plan.activationDType}, ` +
      `rank ${header.rank} of ${header.worldSize}`,
    `steps of up to ${limits.maxNumBatchedTokens} tokens, ${limits.maxNumSeqs} sequences, ` +
      `${limits.maxNumLogitRows} logit rows; context ${model.maxModelLen}, blocks of ${plan.blockSize} tokens`,
    `weights ${formatBytes(weightBytes)}, rope tables ${formatBytes(ropeTableBytes)}, ` +
      `activations ${formatBytes(activationBytes)}, workspace ${formatBytes(workspaceBytes)}`,
  ];
}

function section<T>(title: string, items: readonly T[], print: (item: T) => string): readonly string[] {
  return items.length === 0 ? [] : [`${title}:`, ...items.map((item) => `  ${print(item)}`)];
}

function printWeight({ id, name, dtype, shape, layout, quantization, bytes }: WeightSpec): string {
  const role =
    quantization === null ? '' : `, ${ROLES[quantization.holds]} of ${describeFormat(quantization.format)}`;
  return `w${id} ${name}: ${dtype} ${formatShape(shape)} ${layout}${role}, ${formatCount(bytes)} bytes`;
}

const ROLES = {
  codes: 'codes',
  scales: 'scales',
  inputScales: 'scales of what meets codes',
  inputOrder: 'order of what meets codes',
} as const;

function printTable({ id, numPositions, rotaryDim, attentionFactor, bytes }: RopeTable): string {
  const factor = attentionFactor === 1 ? '' : `, times ${attentionFactor}`;
  return `r${id} [${numPositions}, ${rotaryDim}]${factor}, ${formatCount(bytes)} bytes`;
}

function printGroup({ index, window, layers, bytesPerToken }: KVCacheGroup): string {
  const { numKvHeads, keyHeadDim, valueHeadDim, dtype } = layers[0];
  const looksBack = window === null ? '' : `, window ${window}`;
  const heads = `${numKvHeads} heads of ${keyHeadDim} + ${valueHeadDim}`;
  return `g${index} layers ${printLayers(layers.map((spec) => spec.layer))}: ${dtype}, ${heads}${looksBack}, ${formatCount(bytesPerToken)} bytes per token`;
}

/** `0–79` where they follow one another. */
function printLayers(layers: readonly number[]): string {
  const isRun = layers.length > 2 && layers.every((layer, i) => layer === layers[0] + i);
  return isRun ? `${layers[0]}–${layers.at(-1)}` : layers.join(', ');
}

function printBuffer({ id, name, dtype, shape, offset, bytes }: BufferSpec): string {
  return `b${id} ${name}: ${dtype} ${formatShape(shape)} at ${formatCount(offset)}, ${formatCount(bytes)} bytes`;
}

function printLaunch({ op, label, inputs, outputs, attributes, variants, rows }: Launch, plan: Plan): string {
  const results = outputs.map((operand) => printOperand(operand, plan)).join(', ');
  const operands = inputs.map((operand) => printOperand(operand, plan)).join(', ');
  const kernels = variants.map(({ kernel, maxRows }) =>
    maxRows === null ? kernel : `${kernel} ≤ ${maxRows}`,
  );
  const shown = Object.keys(attributes).length === 0 ? '' : ` ${printValue(attributes)}`;
  return `${results} = ${op}(${operands})${shown} × ${rows} by ${kernels.join(' | ')}  # ${label}`;
}

function printOperand(operand: Operand, plan: Plan): string {
  switch (operand.kind) {
    case 'buffer':
      return `b${operand.id}${printColumns(operand)}`;
    case 'weight':
      return `w${operand.id}`;
    case 'ropeTable':
      return `r${operand.id}`;
    case 'input':
      return plan.kvCacheGroups.length > 1 ? `${operand.name}.${operand.group}` : operand.name;
    case 'kvCache':
      return `kv${operand.layer}`;
    case 'none':
      return '-';
  }
}

/** Only for a view of some of the columns. */
function printColumns({ columnStart, columns, rowStride }: BufferOperand): string {
  return columns === rowStride ? '' : `[:, ${columnStart}:${columnStart + columns}]`;
}

/** Attributes, but for long lists (frequencies, slopes) their length. */
function printValue(value: AttributeValue): string {
  if (Array.isArray(value)) return `<${value.length}>`;
  if (value === null || typeof value !== 'object') return String(value);
  const entries = Object.entries(value as Attributes).map(([key, item]) => `${key} ${printValue(item)}`);
  return `{${entries.join(', ')}}`;
}

/** Launches of one op by the same kernels. */
export interface KernelUse extends Pick<Launch, 'op' | 'variants' | 'rows'> {
  readonly numLaunches: number;
}

export function kernelUses({ launches }: Plan): readonly KernelUse[] {
  const uses = new Map<string, KernelUse>();
  for (const { op, variants, rows } of launches) {
    const key = JSON.stringify([op, variants, rows]);
    uses.set(key, { op, variants, rows, numLaunches: (uses.get(key)?.numLaunches ?? 0) + 1 });
  }
  return [...uses.values()];
}

/** One line per op and choice of kernels, with how many launches make it. */
export function printKernels(plan: Plan): string {
  const lines = kernelUses(plan).map(({ op, variants, rows, numLaunches }) => {
    const choice = variants.map(({ kernel, maxRows }) =>
      maxRows === null ? kernel : `${kernel} ≤ ${maxRows}`,
    );
    return `${String(numLaunches).padStart(5)} × ${op.padEnd(16)} by ${choice.join(' | ')} × ${rows}\n`;
  });
  return lines.join('');
}
