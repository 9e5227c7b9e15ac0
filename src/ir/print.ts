// Writes a graph as text: one line per input, parameter, cache and node, with shapes.
import type { Attributes, AttributeValue, Graph, KVCacheSpec, Node, Parameter, Value } from './graph.ts';
import { formatType } from './op.ts';

const MAX_LIST_ITEMS = 4;

/** The graph's text. Values of nodes are `%id`; inputs and parameters go by their names. */
export function printGraph(graph: Graph): string {
  const names = new Map([...graph.inputs, ...graph.parameters].map(({ value }) => [value.id, value.name]));
  const nameOf = (value: Value): string => names.get(value.id) ?? `%${value.id}`;
  return [
    `graph ${graph.name}`,
    ...section('inputs', graph.inputs, ({ value }) => `${value.name}: ${formatType(value.type)}`),
    ...section('parameters', graph.parameters, printParameter),
    ...section('kv caches', graph.kvCaches, printCache),
    ...section('nodes', graph.nodes, (node) => printNode(node, nameOf)),
    ...section('outputs', graph.outputs, ({ name, value }) => `${name}: ${nameOf(value)}`),
    '',
  ].join('\n');
}

function section<T>(title: string, items: readonly T[], print: (item: T) => string): readonly string[] {
  return items.length === 0 ? [] : [`${title}:`, ...items.map((item) => `  ${print(item)}`)];
}

function printParameter({ name, value, parts }: Parameter): string {
  const transposed = parts.some((part) => part.transpose) ? ', stored transposed' : '';
  return `${name}: ${formatType(value.type)}${transposed}`;
}

function printCache(spec: KVCacheSpec): string {
  const window = spec.window === null ? '' : `, window ${spec.window}`;
  const dims = `keys [${spec.numKvHeads}, ${spec.keyHeadDim}], values [${spec.numKvHeads}, ${spec.valueHeadDim}]`;
  return `layer ${spec.layer}: ${spec.dtype} ${dims}${window}`;
}

function printNode(node: Node, nameOf: (value: Value) => string): string {
  const results = node.outputs.map(nameOf).join(', ');
  const operands = node.inputs.map(nameOf).join(', ');
  const types = node.outputs.map((output) => formatType(output.type)).join(', ');
  const label = node.label === '' ? '' : `  # ${node.label}`;
  return `${results} = ${node.op}(${operands})${printAttributes(node.attributes)}: ${types}${label}`;
}

function printAttributes(attributes: Attributes): string {
  return Object.keys(attributes).length === 0 ? '' : ` ${printValue(attributes)}`;
}

function printValue(value: AttributeValue): string {
  if (Array.isArray(value)) return printList(value as readonly AttributeValue[]);
  if (value === null || typeof value !== 'object') return String(value);
  const entries = Object.entries(value as Attributes).map(([key, item]) => `${key}: ${printValue(item)}`);
  return `{${entries.join(', ')}}`;
}

function printList(items: readonly AttributeValue[]): string {
  const shown = items.slice(0, MAX_LIST_ITEMS).map(printValue);
  const rest = items.length > MAX_LIST_ITEMS ? [`… ${items.length} in all`] : [];
  return `[${[...shown, ...rest].join(', ')}]`;
}
