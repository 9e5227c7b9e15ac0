// Checks a graph against the rules that passes and devices rely on; run after the model's definition and every pass.
import { isFloatDType } from '../tensor/dtype.ts';
import { formatShape, shapesEqual } from '../tensor/shape.ts';
import { columnsFrom } from './assemble-weight.ts';
import type { Graph, KVCacheSpec, Node, Parameter, Value, ValueType } from './graph.ts';
import { kvCacheGroups } from './kv-cache-groups.ts';
import { formatType, GraphError, type OpDefinition } from './op.ts';
import { OPS } from './ops/index.ts';

/**
 * Throws a `GraphError` at the first broken rule: every value is defined once and before it is used; types agree with
 * what the ops infer (which float type a value has is free: that is the recipe's choice); each layer's cache is
 * declared, written once, and read after that by ops of the same geometry; parts fill their parameters; the outputs
 * exist and `logits` is among them.
 */
export function verifyGraph(graph: Graph): void {
  const defined = new Map<number, ValueType>();
  const define = (value: Value, where: string): void => {
    if (defined.has(value.id))
      throw new GraphError(`value ${value.name} is defined twice, the second time ${where}`);
    defined.set(value.id, value.type);
  };
  verifyInputs(graph);
  graph.inputs.forEach((input) => define(input.value, 'as an input'));
  graph.parameters.forEach((parameter) => define(parameter.value, 'as a parameter'));
  verifyParameters(graph.parameters);
  const caches = new CacheRules(graph.kvCaches);
  for (const node of graph.nodes) {
    node.inputs.forEach((input) => verifyUse(input, defined, nameOf(node)));
    const op = verifyTypes(node);
    caches.verify(node, op);
    node.outputs.forEach((output) => define(output, `by ${nameOf(node)}`));
  }
  for (const { name, value } of graph.outputs) verifyUse(value, defined, `output ${name}`);
  if (!graph.outputs.some((output) => output.name === 'logits'))
    throw new GraphError('no output is called logits');
}

function nameOf(node: Node): string {
  return `${node.op} at ${node.label || 'the top'}`;
}

function verifyInputs(graph: Graph): void {
  const numGroups = Math.max(1, kvCacheGroups(graph.kvCaches).length);
  const seen = new Set<string>();
  for (const { name, group } of graph.inputs) {
    if (group >= numGroups) throw new GraphError(`input ${name} belongs to group ${group} of ${numGroups}`);
    if (seen.has(`${name} ${group}`)) throw new GraphError(`input ${name} of group ${group} stands twice`);
    seen.add(`${name} ${group}`);
  }
}

function verifyParameters(parameters: readonly Parameter[]): void {
  const names = new Set<string>();
  for (const parameter of parameters) {
    const { name, value, parts } = parameter;
    if (names.has(name)) throw new GraphError(`two parameters are called ${name}`);
    names.add(name);
    const [rows, columns = 1] = value.type.shape;
    const numRows = parts.reduce((sum, part) => sum + part.rowCount, 0);
    if (numRows !== rows || parts.some((part) => columnsFrom(part, parameter.quantization) !== columns)) {
      throw new GraphError(`the parts of parameter ${name} do not fill ${formatShape(value.type.shape)}`);
    }
  }
}

function verifyUse(value: Value, defined: ReadonlyMap<number, ValueType>, where: string): void {
  const type = defined.get(value.id);
  if (!type) throw new GraphError(`${where} uses ${value.name}, which is not defined before it`);
  if (formatType(type) !== formatType(value.type)) {
    throw new GraphError(
      `${where} takes ${value.name} for ${formatType(value.type)}, but it is ${formatType(type)}`,
    );
  }
}

function verifyTypes(node: Node): OpDefinition {
  const op = OPS.get(node.op);
  if (!op) throw new GraphError(`no op is called ${node.op} (at ${node.label})`);
  const inputs = node.inputs.map((input) => input.type);
  const expected = op.infer({ label: node.label, inputs, attributes: node.attributes });
  const actual = node.outputs.map((output) => output.type);
  if (expected.length === actual.length && expected.every((type, i) => agrees(type, actual[i]))) return op;
  const [wanted, found] = [expected, actual].map((types) => types.map(formatType).join(', '));
  throw new GraphError(`${nameOf(node)} yields ${wanted}, but the graph says ${found}`);
}

function agrees(a: ValueType, b: ValueType): boolean {
  return shapesEqual(a.shape, b.shape) && kindOf(a) === kindOf(b);
}

function kindOf({ dtype }: ValueType): string {
  return isFloatDType(dtype) ? 'float' : dtype;
}

/** A token says that a layer's cache is written: what takes it reads that layer. */
class CacheRules {
  readonly #specs: ReadonlyMap<number, KVCacheSpec>;
  readonly #writtenBy = new Map<number, Value>();

  constructor(specs: readonly KVCacheSpec[]) {
    this.#specs = new Map(specs.map((spec) => [spec.layer, spec]));
    if (this.#specs.size < specs.length) throw new GraphError('a layer has two KV caches');
  }

  verify(node: Node, op: OpDefinition): void {
    const written = node.outputs.find((output) => output.type.dtype === 'token');
    const read = node.inputs.find((input) => input.type.dtype === 'token');
    if (!written && !read) return;
    const layer = node.attributes['layer'] as number;
    const spec = this.#specs.get(layer);
    if (!spec) throw new GraphError(`${nameOf(node)} uses layer ${layer}, which has no KV cache`);
    verifyGeometry(node, op, spec);
    if (written) this.#write(node, layer, written);
    if (read) this.#read(node, layer, read);
  }

  #write(node: Node, layer: number, token: Value): void {
    if (this.#writtenBy.has(layer))
      throw new GraphError(`${nameOf(node)} writes layer ${layer} a second time`);
    this.#writtenBy.set(layer, token);
  }

  #read(node: Node, layer: number, token: Value): void {
    if (this.#writtenBy.get(layer)?.id === token.id) return;
    throw new GraphError(`${nameOf(node)} reads layer ${layer}, but ${token.name} does not write it`);
  }
}

function verifyGeometry(node: Node, op: OpDefinition, spec: KVCacheSpec): void {
  const columns = (operand: string): unknown => node.inputs[op.inputs.indexOf(operand)]?.type.shape[1];
  const facts: readonly (readonly [string, unknown, number | null])[] = [
    ['numKvHeads', node.attributes['numKvHeads'], spec.numKvHeads],
    ['headDim', node.attributes['headDim'], spec.keyHeadDim],
    ['valueHeadDim', node.attributes['valueHeadDim'], spec.valueHeadDim],
    ['window', node.attributes['window'], spec.window],
    ['the columns of k', columns('k'), spec.numKvHeads * spec.keyHeadDim],
    ['the columns of v', columns('v'), spec.numKvHeads * spec.valueHeadDim],
  ];
  for (const [what, actual, expected] of facts) {
    if (actual === undefined || actual === expected) continue;
    throw new GraphError(
      `${nameOf(node)}: ${what} must be ${expected}, as layer ${spec.layer}'s KV cache says; not ${JSON.stringify(actual)}`,
    );
  }
}
