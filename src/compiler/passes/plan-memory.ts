// Gives every temporary a place: views share their source's buffer, ops that may work in place take over the memory of
// inputs that die, and what lives at the same time lies apart in one arena.
import type { Graph, Value } from '../../ir/graph.ts';
import { itemSize, type DType, type FloatDType } from '../../tensor/dtype.ts';
import { elementCount, rowSize } from '../../tensor/shape.ts';
import { allocate, type Region } from '../allocate-values.ts';
import { opOf } from '../op-of.ts';
import { placeBuffers } from '../place-buffers.ts';
import type { BufferOperand, BufferSpec, StepLimits } from '../plan.ts';
import { stepDims } from '../step-dims.ts';

export interface MemoryPlan {
  readonly buffers: readonly BufferSpec[];
  readonly arenaBytes: number;
  /** Where each value lies, by its id; tokens, weights and step inputs are not in it. */
  readonly operands: ReadonlyMap<number, BufferOperand>;
}

/** Buffers of floats are `activationDType`, but for the logits, which stay float32 from the product that makes them. */
export function planMemory(
  graph: Graph,
  limits: StepLimits,
  activationDType: FloatDType = 'float32',
): MemoryPlan {
  const { regions, storages } = allocate(graph);
  const wide = wideValues(graph);
  const dtypeOf = (value: Value): DType =>
    bufferDType(value, wide.has(value.id) ? 'float32' : activationDType);
  const sizes = storages.map(
    ({ value }) => elementCount(value.type.shape, stepDims(limits)) * itemSize(dtypeOf(value)),
  );
  const lifetimes = storages.map(({ firstUse, reads }, i) => {
    const lastUse = Math.max(firstUse, ...reads.map((read) => read.position));
    return { bytes: sizes[i], firstUse, lastUse };
  });
  const { offsets, arenaBytes } = placeBuffers(lifetimes);
  const buffers = storages.map(({ id, value }, i): BufferSpec => {
    const { shape } = value.type;
    return { id, name: value.name, dtype: dtypeOf(value), shape, offset: offsets[i], bytes: sizes[i] };
  });
  const operands = new Map([...regions].map(([id, region]) => [id, operandOf(region)]));
  return { buffers, arenaBytes, operands };
}

/** The logits and what elementwise ops make them of, and outputs that ops keep wide. */
function wideValues(graph: Graph): ReadonlySet<number> {
  const logits = graph.outputs.filter(({ name }) => name === 'logits');
  const wide = new Set(logits.map(({ value }) => value.id));
  for (const node of graph.nodes.toReversed()) {
    if (!opOf(node).isElementwise || !node.outputs.some((output) => wide.has(output.id))) continue;
    for (const input of node.inputs) wide.add(input.id);
  }
  for (const node of graph.nodes) for (const i of opOf(node).wideOutputs) wide.add(node.outputs[i].id);
  return wide;
}

function bufferDType({ name, type }: Value, floats: FloatDType): DType {
  if (type.dtype === 'token') throw new Error(`${name} is a token and has no memory`);
  return type.dtype === 'float32' ? floats : type.dtype;
}

function operandOf({ storage, start, columns }: Region): BufferOperand {
  return {
    kind: 'buffer',
    id: storage.id,
    columnStart: start,
    columns,
    rowStride: rowSize(storage.value.type.shape),
  };
}
