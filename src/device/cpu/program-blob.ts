// A plan's launches as the command list that the CPU library runs: the structs of native/program.h and program-header.h.
import type { KVCacheGroup, Launch, Operand, Plan, StepLimits } from '../../compiler/plan.ts';
import type { KVCacheSpec, StepInputName } from '../../ir/graph.ts';
import type { Address } from '../../ffi/native-memory.ts';
import { CPU_KERNELS } from '../../kernels/cpu/index.ts';
import type { CommandParameters, CpuKernelDescription } from '../../kernels/cpu/cpu-kernel.ts';
import type { WeightLayout } from '../../kernels/kernel.ts';
import { itemSize, type DType } from '../../tensor/dtype.ts';
import { NeedletailError } from '../../util/errors.ts';
import { StructWriter } from './struct-writer.ts';

const HEADER_BYTES = 152;
const OPERAND_BYTES = 56;
const COMMAND_BYTES = 784;
const KV_CACHE_BYTES = 40;
const MAX_VARIANTS = 4;
const MAX_INPUTS = 8;
const MAX_OUTPUTS = 4;
const MAX_PARAMETERS = 16;
const MAX_GROUPS = 8;

const DTYPE_NUMBERS: Readonly<Partial<Record<DType, number>>> = {
  float32: 0,
  bfloat16: 1,
  float16: 2,
  int32: 3,
  int8: 4,
  uint4: 5,
  float8_e4m3fn: 6,
};
const LAYOUT_NUMBERS: Readonly<Partial<Record<WeightLayout, number>>> = {
  rowMajor: 0,
  panel16: 1,
  panel16x2: 2,
  panel16words: 3,
};
const INPUT_NUMBERS: Readonly<Record<StepInputName, number>> = {
  tokenIds: 0,
  positions: 1,
  cuSeqlensQ: 2,
  contextLens: 3,
  logitRows: 4,
  slotMapping: 5,
  blockTables: 6,
};
const ROW_NUMBERS: Readonly<Record<Launch['rows'], number>> = { numTokens: 0, numSeqs: 1, numLogitRows: 2 };

/** Where a loaded plan's parts lie in memory. */
export interface Placement {
  /** Per weight id. */
  readonly weights: readonly Address[];
  /** Per rope table id. */
  readonly ropeTables: readonly Address[];
  /** In the order of `cachesOf`. */
  readonly kvCaches: readonly Address[];
  readonly arena: Address;
  readonly workspace: Address;
  /** Blocks of each cache group. */
  readonly numBlocks: readonly number[];
}

/** A layer's cache with its group, in the order of the program's list. */
export interface PlacedCache extends KVCacheSpec {
  readonly group: number;
}

export function cachesOf(groups: readonly KVCacheGroup[]): readonly PlacedCache[] {
  return groups.flatMap((group) => group.layers.map((layer) => ({ ...layer, group: group.index })));
}

export function dtypeNumber(dtype: DType): number {
  const number = DTYPE_NUMBERS[dtype];
  if (number === undefined)
    throw new NeedletailError('bad_plan', `the cpu device has no kernels for ${dtype}`);
  return number;
}

export function layoutNumber(layout: WeightLayout): number {
  const number = LAYOUT_NUMBERS[layout];
  if (number === undefined)
    throw new NeedletailError('bad_plan', `the cpu device has no kernels for weights laid out as ${layout}`);
  return number;
}

export function findDescription(op: string): CpuKernelDescription {
  const description = CPU_KERNELS.find((kernel) => kernel.op === op);
  if (!description) throw new NeedletailError('bad_plan', `the cpu device has no kernel for the op ${op}`);
  return description;
}

/** The bytes of an `NtProgramHeader` and all that it points to. `findKernel` numbers kernels by name. */
export function encodeProgram(
  plan: Plan,
  placement: Placement,
  findKernel: (name: string) => number,
): Uint8Array {
  return new ProgramEncoder(plan, placement, findKernel).encode();
}

class ProgramEncoder {
  readonly #plan: Plan;
  readonly #placement: Placement;
  readonly #findKernel: (name: string) => number;
  readonly #caches: readonly PlacedCache[];
  readonly #parameters: readonly CommandParameters[];
  readonly #writer: StructWriter;
  readonly #commands = HEADER_BYTES;
  readonly #kvCaches: number;
  readonly #constants: number;

  constructor(plan: Plan, placement: Placement, findKernel: (name: string) => number) {
    this.#plan = plan;
    this.#placement = placement;
    this.#findKernel = findKernel;
    this.#caches = cachesOf(plan.kvCacheGroups);
    this.#parameters = plan.launches.map(parametersOf);
    this.#kvCaches = this.#commands + plan.launches.length * COMMAND_BYTES;
    this.#constants = this.#kvCaches + this.#caches.length * KV_CACHE_BYTES;
    this.#writer = new StructWriter(this.#constants + this.#numConstants() * 4);
  }

  encode(): Uint8Array {
    this.#writeHeader();
    let constants = this.#constants;
    this.#plan.launches.forEach((launch, i) => {
      this.#writer.seek(this.#commands + i * COMMAND_BYTES);
      this.#writeCommand(launch, this.#parameters[i], constants);
      constants += (this.#parameters[i].constants?.length ?? 0) * 4;
    });
    this.#writer.seek(this.#kvCaches);
    this.#caches.forEach((cache, i) => this.#writeCache(cache, this.#placement.kvCaches[i]));
    for (const { constants: values = [] } of this.#parameters) this.#writer.float32(...values);
    return this.#writer.bytes;
  }

  #numConstants(): number {
    return this.#parameters.reduce((sum, { constants = [] }) => sum + constants.length, 0);
  }

  #writeHeader(): void {
    const { launches, kvCacheGroups, blockSize, limits, logits } = this.#plan;
    if (kvCacheGroups.length > MAX_GROUPS) throw tooMany('cache groups', kvCacheGroups.length, MAX_GROUPS);
    this.#writer.int32(launches.length, this.#caches.length, kvCacheGroups.length, blockSize);
    this.#writer.int32(...limitNumbers(limits), this.#numConstants());
    this.#writer.int64(this.#commands, this.#kvCaches, this.#constants, this.#placement.workspace);
    this.#writeOperand(logits);
    this.#writer.int32(...this.#placement.numBlocks);
  }

  #writeCommand(launch: Launch, { values, constants }: CommandParameters, constantsPlace: number): void {
    const { variants, inputs, outputs, rows } = launch;
    const start = this.#writer.position;
    this.#writer.int32(ROW_NUMBERS[rows], count(variants, 'variants', MAX_VARIANTS));
    for (const { kernel, maxRows } of variants) this.#writer.int32(this.#findKernel(kernel), maxRows ?? -1);
    const inputsPlace = start + 8 + MAX_VARIANTS * 8;
    this.#writeOperands(inputsPlace, inputs, MAX_INPUTS);
    const outputsPlace = inputsPlace + MAX_INPUTS * OPERAND_BYTES;
    this.#writeOperands(outputsPlace, outputs, MAX_OUTPUTS);
    const parametersPlace = outputsPlace + MAX_OUTPUTS * OPERAND_BYTES;
    this.#writer.seek(parametersPlace);
    count(values, 'parameters', MAX_PARAMETERS);
    for (const value of values) {
      if ('int' in value) this.#writer.int32(value.int);
      else this.#writer.float32(value.float);
    }
    this.#writer.seek(parametersPlace + MAX_PARAMETERS * 4);
    this.#writer.int64(constants ? constantsPlace : 0);
  }

  #writeOperands(place: number, operands: readonly Operand[], limit: number): void {
    count(operands, 'operands', limit);
    operands.forEach((operand, i) => {
      this.#writer.seek(place + i * OPERAND_BYTES);
      this.#writeOperand(operand);
    });
  }

  #writeOperand(operand: Operand): void {
    switch (operand.kind) {
      case 'none':
        return this.#writer.int32(0);
      case 'buffer': {
        const { dtype, bytes, offset } = this.#plan.buffers[operand.id];
        const size = itemSize(dtype);
        const rows = Math.floor(bytes / (operand.rowStride * size));
        const address = this.#placement.arena + offset + operand.columnStart * size;
        return this.#writeMatrix(dtype, 'rowMajor', rows, operand.columns, operand.rowStride, address);
      }
      case 'weight': {
        const { dtype, layout, shape } = this.#plan.weights[operand.id];
        const [rows, columns] = shape.length === 1 ? [1, shape[0]] : shape;
        return this.#writeMatrix(dtype, layout, rows, columns, columns, this.#placement.weights[operand.id]);
      }
      case 'ropeTable': {
        const { numPositions, rotaryDim } = this.#plan.ropeTables[operand.id];
        const address = this.#placement.ropeTables[operand.id];
        return this.#writeMatrix('float32', 'rowMajor', numPositions, rotaryDim, rotaryDim, address);
      }
      case 'input':
        return this.#writer.int32(2, 3, 0, INPUT_NUMBERS[operand.name], operand.group);
      case 'kvCache':
        return this.#writer.int32(
          3,
          0,
          0,
          this.#caches.findIndex(({ layer }) => layer === operand.layer),
        );
    }
  }

  #writeMatrix(
    dtype: DType,
    layout: WeightLayout,
    rows: number,
    columns: number,
    rowStride: number,
    address: Address,
  ): void {
    this.#writer.int32(1, dtypeNumber(dtype), layoutNumber(layout), 0, 0, 0);
    this.#writer.int64(rows, columns, rowStride, address);
  }

  #writeCache(cache: PlacedCache, address: Address): void {
    const { dtype, group, numKvHeads, keyHeadDim, valueHeadDim } = cache;
    this.#writer.int64(address);
    this.#writer.int32(dtypeNumber(dtype), group, numKvHeads, keyHeadDim, valueHeadDim);
    this.#writer.int32(this.#plan.blockSize, this.#placement.numBlocks[group], 0);
  }
}

function parametersOf({ op, attributes }: Launch): CommandParameters {
  return findDescription(op).encode?.(attributes) ?? { values: [] };
}

function limitNumbers({ maxNumBatchedTokens, maxNumSeqs, maxNumLogitRows }: StepLimits): readonly number[] {
  return [maxNumBatchedTokens, maxNumSeqs, maxNumLogitRows];
}

function count(list: readonly unknown[], what: string, limit: number): number {
  if (list.length > limit) throw tooMany(what, list.length, limit);
  return list.length;
}

function tooMany(what: string, wanted: number, limit: number): NeedletailError {
  return new NeedletailError('bad_plan', `${wanted} ${what}, but the cpu device takes at most ${limit}`);
}
