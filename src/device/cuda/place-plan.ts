// Gives everything a plan needs a place in device memory: exactly the bytes that the ledger counted.
import type { KVCacheGroup, Operand, Plan } from '../../compiler/plan.ts';
import type { Address } from '../../ffi/native-memory.ts';
import type { KVCacheSpec, StepInputName } from '../../ir/graph.ts';
import { kvBytesPerToken } from '../../ir/kv-cache-groups.ts';
import type { CudaMatrix, CudaOperand, StepAddresses } from '../../kernels/cuda/cuda-kernel.ts';
import { stepBytes } from '../../kernels/cuda/step-layout.ts';
import { itemSize } from '../../tensor/dtype.ts';
import type { DeviceMemory } from '../device.ts';

/** Of weights, so that every access and cuBLASLt's are aligned. */
const ALIGNMENT = 256;

/** One layer's cache: keys, then values, blocks of either in one piece; inside they are as kv-tile.cuh says. */
export interface PlacedCache extends KVCacheSpec {
  readonly group: number;
  readonly keys: Address;
  readonly values: Address;
  /** Bytes of one block's keys, and values. */
  readonly keyBlockBytes: number;
  readonly valueBlockBytes: number;
}

export interface Placement {
  readonly weights: readonly Address[];
  readonly ropeTables: readonly Address[];
  readonly caches: readonly PlacedCache[];
  readonly arena: Address;
  readonly workspace: Address;
  readonly memory: DeviceMemory;
}

/** Where kernels find a step's arrays. */
export interface StepPlaces {
  readonly addresses: StepAddresses;
  /** What sample.cu reads, and where it leaves tokens for the next step. */
  readonly sampling: {
    readonly columns: Address;
    readonly lists: Address;
    readonly drawn: Address;
    /** Elements from one column, of what is read and of the results, to the next. */
    readonly columnStride: number;
  };
  /** An array, and for a block table the width of its rows. */
  input(name: StepInputName, group: number): { address: Address; strideAddress: Address };
}

/** Gives out device memory. */
export interface Allocator {
  allocate(bytes: number): Address;
}

export function placePlan(plan: Plan, numBlocks: readonly number[], pool: Allocator): Placement {
  const fixed = [...plan.weights, ...plan.ropeTables].map(({ bytes }) => bytes);
  const offsets = offsetsOf(fixed);
  const start = pool.allocate(offsets.at(-1)!);
  const addresses = offsets.map((offset) => start + offset);
  const caches = plan.kvCacheGroups.flatMap((group) => placeGroup(group, plan, numBlocks[group.index], pool));
  return {
    weights: addresses.slice(0, plan.weights.length),
    ropeTables: addresses.slice(plan.weights.length, -1),
    caches,
    arena: pool.allocate(plan.arenaBytes),
    workspace: pool.allocate(plan.workspaceBytes),
    memory: {
      weights: fixed.reduce((sum, bytes) => sum + bytes, 0),
      kvCache: caches.reduce((sum, c) => sum + numBlocks[c.group] * (c.keyBlockBytes + c.valueBlockBytes), 0),
      activations: plan.arenaBytes,
      workspace: plan.workspaceBytes,
      steps: stepBytes(plan),
    },
  };
}

/** Where each of `sizes` starts, and where the last ends. */
function offsetsOf(sizes: readonly number[]): number[] {
  const offsets = [0];
  for (const size of sizes) offsets.push(Math.ceil((offsets.at(-1)! + size) / ALIGNMENT) * ALIGNMENT);
  return offsets;
}

function placeGroup(
  { index, layers }: KVCacheGroup,
  { blockSize }: Plan,
  numBlocks: number,
  pool: Allocator,
): PlacedCache[] {
  return layers.map((layer) => {
    const bytes = kvBytesPerToken(layer);
    const [keyBlockBytes, valueBlockBytes] = [blockSize * bytes.keys, blockSize * bytes.values];
    const keys = pool.allocate(numBlocks * (keyBlockBytes + valueBlockBytes));
    const values = keys + numBlocks * keyBlockBytes;
    return { ...layer, group: index, keys, values, keyBlockBytes, valueBlockBytes };
  });
}

/** An operand of the plan as kernels see it. */
export function placeOperand(
  operand: Operand,
  plan: Plan,
  placement: Placement,
  step: StepPlaces,
): CudaOperand {
  switch (operand.kind) {
    case 'none':
      return operand;
    case 'buffer': {
      const { dtype, bytes, offset } = plan.buffers[operand.id];
      const { columns, rowStride, columnStart } = operand;
      const size = itemSize(dtype);
      const address = placement.arena + offset + columnStart * size;
      return { kind: 'matrix', address, dtype, rows: bytes / (rowStride * size), columns, rowStride };
    }
    case 'weight':
      return weightMatrix(operand.id, plan, placement);
    case 'ropeTable':
      return {
        kind: 'ropeTable',
        address: placement.ropeTables[operand.id],
        rotaryDim: plan.ropeTables[operand.id].rotaryDim,
      };
    case 'input':
      return { kind: 'input', ...step.input(operand.name, operand.group) };
    case 'kvCache':
      return { kind: 'kvCache', ...placement.caches.find(({ layer }) => layer === operand.layer)! };
  }
}

function weightMatrix(id: number, { weights }: Plan, placement: Placement): CudaMatrix {
  const { dtype, shape } = weights[id];
  const [rows, columns] = shape.length === 1 ? [1, shape[0]] : shape;
  return { kind: 'matrix', address: placement.weights[id], dtype, rows, columns, rowStride: columns };
}
