// Which values share memory: views lie in their source, and ops that may work in place take over inputs that die.
import type { Graph, Node, Value } from '../ir/graph.ts';
import { rowSize, shapesEqual } from '../tensor/shape.ts';
import { opOf } from './op-of.ts';

/** Columns `[start, start + columns)`. */
interface ColumnRange {
  readonly start: number;
  readonly columns: number;
}

/** A range that the node at `position` reads. */
interface Read extends ColumnRange {
  readonly position: number;
}

/** Memory that one value after another may use; becomes a buffer. */
export interface Storage {
  readonly id: number;
  /** The first value in it, which gives it name and type. */
  readonly value: Value;
  readonly firstUse: number;
  readonly reads: Read[];
}

export interface Region extends ColumnRange {
  readonly storage: Storage;
}

export interface Allocation {
  /** Where each value lies that a node yields, by its id; tokens lie nowhere. */
  readonly regions: ReadonlyMap<number, Region>;
  readonly storages: readonly Storage[];
}

export function allocate(graph: Graph): Allocation {
  const reads = collectReads(graph);
  const regions = new Map<number, Region>();
  const storages: Storage[] = [];
  for (const [position, node] of graph.nodes.entries()) {
    const taken: Region[] = [];
    for (const [i, output] of node.outputs.entries()) {
      if (output.type.dtype === 'token') continue;
      if (opOf(node).isView) {
        regions.set(output.id, viewRegion(node, regions));
        continue;
      }
      const region =
        regionInPlace(node, i, position, regions, taken) ?? newRegion(output, position, storages);
      for (const read of reads.get(output.id) ?? []) {
        region.storage.reads.push({ ...read, start: region.start + read.start });
      }
      taken.push(region);
      regions.set(output.id, region);
    }
  }
  return { regions, storages };
}

function newRegion(value: Value, position: number, storages: Storage[]): Region {
  const storage = { id: storages.length, value, firstUse: position, reads: [] };
  storages.push(storage);
  return { storage, start: 0, columns: rowSize(value.type.shape) };
}

/** For each value, which of its columns are read where, by itself or through views of it. */
function collectReads(graph: Graph): ReadonlyMap<number, readonly Read[]> {
  const reads = new Map<number, Read[]>();
  const record = (value: Value, read: Read): void => {
    reads.set(value.id, [...(reads.get(value.id) ?? []), read]);
  };
  const whole = (value: Value, position: number): Read => ({
    position,
    start: 0,
    columns: rowSize(value.type.shape),
  });
  for (const { value } of graph.outputs) record(value, whole(value, graph.nodes.length));
  for (const [position, node] of [...graph.nodes.entries()].toReversed()) {
    if (opOf(node).isView) {
      const { start } = viewRange(node);
      for (const read of reads.get(node.outputs[0].id) ?? []) {
        record(node.inputs[0], { ...read, start: start + read.start });
      }
    } else {
      for (const input of node.inputs) record(input, whole(input, position));
    }
  }
  return reads;
}

function viewRange({ attributes }: Node): ColumnRange {
  return { start: attributes.start as number, columns: attributes.columns as number };
}

function viewRegion(node: Node, regions: ReadonlyMap<number, Region>): Region {
  const source = regions.get(node.inputs[0].id)!;
  const { start, columns } = viewRange(node);
  return { storage: source.storage, start: source.start + start, columns };
}

/** The region of an input that output `index` of the node may overwrite; null if there is none. */
function regionInPlace(
  node: Node,
  index: number,
  position: number,
  regions: ReadonlyMap<number, Region>,
  taken: readonly Region[],
): Region | null {
  const allowed = opOf(node).inPlace[index] ?? [];
  const operands = node.inputs.map((input) => regions.get(input.id) ?? null);
  for (const operand of allowed) {
    const region = operands[operand];
    if (region === null || !sameType(node.inputs[operand], node.outputs[index])) continue;
    const isReadLater = region.storage.reads.some(
      (read) => read.position > position && overlap(read, region),
    );
    const isTaken = taken.some((other) => isIn(other, region));
    // Another operand may lie there only if it lies there exactly, and the op may overwrite that one too.
    const isReadAside = operands.some(
      (other, i) => other && isIn(other, region) && !(allowed.includes(i) && sameRange(other, region)),
    );
    if (!isReadLater && !isTaken && !isReadAside) return region;
  }
  return null;
}

function sameType(a: Value, b: Value): boolean {
  return a.type.dtype === b.type.dtype && shapesEqual(a.type.shape, b.type.shape);
}

function isIn(a: Region, b: Region): boolean {
  return a.storage === b.storage && overlap(a, b);
}

function sameRange(a: ColumnRange, b: ColumnRange): boolean {
  return a.start === b.start && a.columns === b.columns;
}

function overlap(a: ColumnRange, b: ColumnRange): boolean {
  return a.start < b.start + b.columns && b.start < a.start + a.columns;
}
