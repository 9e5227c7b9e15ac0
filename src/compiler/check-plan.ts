// Whether a plan is consistent in itself: a device trusts its ids, ranges and sizes when it computes addresses.
import { columnsFrom } from '../ir/assemble-weight.ts';
import { layoutBytes } from '../kernels/kernel.ts';
import { itemSize } from '../tensor/dtype.ts';
import { asMatrix, elementCount, rowSize } from '../tensor/shape.ts';
import type { BufferOperand, Operand, Plan } from './plan.ts';
import { stepDims } from './step-dims.ts';

/** The first contradiction in words, or null. */
export function checkPlan(plan: Plan): string | null {
  return (
    checkIds(plan) ??
    checkWeights(plan) ??
    checkTables(plan) ??
    checkBuffers(plan) ??
    checkOperands(plan) ??
    checkOutputs(plan) ??
    checkOrder(plan) ??
    checkOverlaps(plan)
  );
}

function checkIds(plan: Plan): string | null {
  const lists = { weight: plan.weights, 'rope table': plan.ropeTables, buffer: plan.buffers };
  for (const [name, items] of Object.entries(lists)) {
    const wrong = items.findIndex((item, i) => item.id !== i);
    if (wrong >= 0) return `${name} ${wrong} has id ${items[wrong].id}`;
  }
  const group = plan.kvCacheGroups.findIndex(({ index }, i) => index !== i);
  return group < 0 ? null : `KV cache group ${group} has index ${plan.kvCacheGroups[group].index}`;
}

function checkWeights({ weights }: Plan): string | null {
  for (const weight of weights) {
    const { name, dtype, shape, layout, parts, bytes } = weight;
    const [rows, columns = 1] = shape;
    const expected = layoutBytes(layout, rows, columns, itemSize(dtype));
    if (bytes !== expected) return `weight ${name} has ${bytes} bytes, its shape takes ${expected}`;
    const partRows = parts.reduce((sum, part) => sum + part.rowCount, 0);
    const fills =
      partRows === rows &&
      parts.every((part) => columnsFrom(part, weight.quantization) === columns && isInside(part));
    if (!fills) return `the parts of weight ${name} do not fill it`;
  }
  return null;
}

function isInside(part: Plan['weights'][number]['parts'][number]): boolean {
  const [first, second] = asMatrix(part.tensorShape);
  const [rows, columns] = part.transpose ? [second, first] : [first, second];
  const lastRow = part.rowStart + (part.rowCount - 1) * part.rowStep;
  return lastRow < rows && part.columnStart + part.columnCount <= columns;
}

function checkTables({ ropeTables, model }: Plan): string | null {
  for (const { id, numPositions, rotaryDim, inverseFrequencies, bytes } of ropeTables) {
    const isWhole = bytes === numPositions * rotaryDim * itemSize('float32');
    const hasAngles = inverseFrequencies.length * 2 === rotaryDim;
    if (!isWhole || !hasAngles) return `rope table ${id} has sizes that do not agree`;
    if (numPositions < model.maxModelLen) return `rope table ${id} ends before the context does`;
  }
  return null;
}

function checkBuffers({ buffers, arenaBytes, limits }: Plan): string | null {
  for (const { id, dtype, shape, offset, bytes } of buffers) {
    const expected = elementCount(shape, stepDims(limits)) * itemSize(dtype);
    if (bytes !== expected) return `buffer ${id} has ${bytes} bytes, the largest step takes ${expected}`;
    if (offset % 64 !== 0 || offset + bytes > arenaBytes) return `buffer ${id} lies outside of the arena`;
  }
  return null;
}

function checkOperands(plan: Plan): string | null {
  for (const [i, { op, inputs, outputs }] of plan.launches.entries()) {
    for (const operand of [...inputs, ...outputs]) {
      const problem = checkOperand(operand, plan);
      if (problem !== null) return `launch ${i} (${op}): ${problem}`;
    }
  }
  return null;
}

function checkOutputs(plan: Plan): string | null {
  const operands = [plan.logits, ...plan.outputs.map(({ operand }) => operand)];
  return operands.map((operand) => checkView(operand, plan)).find((problem) => problem !== null) ?? null;
}

/** Nothing reads a buffer that no launch before it writes. */
function checkOrder({ launches, logits, outputs }: Plan): string | null {
  const written = new Set<number>();
  const unwritten = (operands: readonly Operand[]) =>
    operands.find((operand) => operand.kind === 'buffer' && !written.has(operand.id)) as
      BufferOperand | undefined;
  for (const [i, launch] of launches.entries()) {
    const missing = unwritten(launch.inputs);
    if (missing)
      return `launch ${i} (${launch.op}) reads buffer ${missing.id}, which nothing before it writes`;
    for (const operand of launch.outputs) if (operand.kind === 'buffer') written.add(operand.id);
  }
  const missing = unwritten([logits, ...outputs.map(({ operand }) => operand)]);
  return missing ? `no launch writes buffer ${missing.id}, which the plan gives back` : null;
}

/** No two buffers that hold something at the same time share a byte. */
function checkOverlaps({ launches, buffers, logits, outputs }: Plan): string | null {
  const spans = new Map<number, { readonly first: number; last: number }>();
  const use = (operand: Operand, launch: number): void => {
    if (operand.kind !== 'buffer') return;
    const span = spans.get(operand.id) ?? { first: launch, last: launch };
    span.last = launch;
    spans.set(operand.id, span);
  };
  for (const [i, launch] of launches.entries())
    for (const operand of [...launch.inputs, ...launch.outputs]) use(operand, i);
  for (const operand of [logits, ...outputs.map((output) => output.operand)]) use(operand, launches.length);
  const used = [...spans].map(([id, span]) => ({ ...buffers[id], ...span }));
  used.sort((a, b) => a.offset - b.offset);
  for (const [i, a] of used.entries()) {
    for (let j = i + 1; j < used.length && used[j].offset < a.offset + a.bytes; j++) {
      const b = used[j];
      if (a.first <= b.last && b.first <= a.last) return `buffers ${a.id} and ${b.id} overlap`;
    }
  }
  return null;
}

function checkOperand(operand: Operand, plan: Plan): string | null {
  switch (operand.kind) {
    case 'buffer':
      return checkView(operand, plan);
    case 'weight':
      return operand.id < plan.weights.length ? null : `there is no weight ${operand.id}`;
    case 'ropeTable':
      return operand.id < plan.ropeTables.length ? null : `there is no rope table ${operand.id}`;
    case 'input':
      return operand.group < plan.kvCacheGroups.length ? null : `there is no group ${operand.group}`;
    case 'kvCache':
      return hasLayer(plan, operand.layer) ? null : `layer ${operand.layer} has no KV cache`;
    case 'none':
      return null;
  }
}

function checkView({ id, columnStart, columns, rowStride }: BufferOperand, plan: Plan): string | null {
  if (id >= plan.buffers.length) return `there is no buffer ${id}`;
  const size = rowSize(plan.buffers[id].shape);
  const fits = rowStride === size && columnStart + columns <= size;
  return fits ? null : `columns ${columnStart} to ${columnStart + columns} are not all in buffer ${id}`;
}

function hasLayer({ kvCacheGroups }: Plan, layer: number): boolean {
  return kvCacheGroups.some(({ layers }) => layers.some((spec) => spec.layer === layer));
}
