// compressed-tensors' checkpoints (llm-compressor): float8 and int8 codes as they are, 4- and 8-bit codes packed in words.
import type { ActivationFormat } from '../../tensor/weight-format.ts';
import { isJsonObject, type JsonObject } from '../../util/json-file.ts';
import { ColumnOrders } from './column-order.ts';
import { canonicalTensors, inPairs } from './grouped.ts';
import {
  badTensor,
  FLOATS,
  readScales,
  readWords,
  type AdaptedTensor,
  type AdaptedTensors,
  type RawTensor,
  type RawTensors,
} from './raw-tensors.ts';
import { adaptRowCodes, layersOf, type ScaleOf } from './row-codes.ts';
import { isOff, numGroups, oneOf, readGroupSize, unsupported } from './settings.ts';
import { toSigned } from './words.ts';

const PACKED = '.weight_packed';

/** One of `config_groups`: which layers, and how they were quantized. */
interface Scheme {
  readonly targets: readonly string[];
  readonly weights: JsonObject;
  readonly activations: ActivationFormat | null;
}

type Entries = readonly (readonly [string, AdaptedTensor])[];

export function adaptCompressedTensors(settings: JsonObject, raw: RawTensors): AdaptedTensors {
  if (!isOff(settings['transform_config'])) throw unsupported('"transform_config" cannot be read');
  checkSparsity(settings['sparsity_config']);
  const schemes = readSchemes(settings);
  const orders = new ColumnOrders();
  const adapted = (layers: readonly string[], adapt: (layer: string, scheme: Scheme) => Entries): Entries =>
    layers.flatMap((layer) => adapt(layer, schemeOf(layer, schemes)));
  const packed = raw.names
    .filter((name) => name.endsWith(PACKED))
    .map((name) => name.slice(0, -PACKED.length));
  return new Map([
    ...adapted(layersOf(raw, 'F8_E4M3'), (layer, scheme) => adaptPlain(layer, scheme, 'float', raw)),
    ...adapted(layersOf(raw, 'I8'), (layer, scheme) => adaptPlain(layer, scheme, 'int', raw)),
    ...adapted(packed, (layer, scheme) => adaptPacked(layer, scheme, orders, raw)),
  ]);
}

function checkSparsity(sparsity: unknown): void {
  if (isOff(sparsity) || (isJsonObject(sparsity) && sparsity['format'] === 'dense')) return;
  throw unsupported('"sparsity_config" names a sparse format, and only dense ones can be read');
}

function readSchemes({ config_groups: groups }: JsonObject): readonly Scheme[] {
  if (!isJsonObject(groups)) throw unsupported('there are no "config_groups"');
  return Object.values(groups).map((group) => {
    if (!isJsonObject(group) || !isJsonObject(group['weights'])) {
      throw unsupported('a group of "config_groups" has no "weights"');
    }
    if (!isOff(group['output_activations'])) throw unsupported('"output_activations" cannot be quantized');
    const { targets, weights } = group;
    return {
      targets: Array.isArray(targets) ? targets.map(String) : [],
      weights: weights,
      activations: readActivations(group['input_activations']),
    };
  });
}

/** A dynamic scale for a whole batch is one for each of its tokens here: no token's numbers depend on another's. */
function readActivations(settings: unknown): ActivationFormat | null {
  if (!isJsonObject(settings)) return null;
  oneOf(settings, 'num_bits', [8]);
  oneOf(settings, 'symmetric', [true], true);
  const type = oneOf(settings, 'type', ['float', 'int'], 'int');
  const isStatic = !oneOf(settings, 'dynamic', [true, false], false);
  const strategy = oneOf(
    settings,
    'strategy',
    isStatic ? ['tensor'] : ['token', 'tensor', 'group'],
    'tensor',
  );
  const groupSize = strategy === 'group' ? readGroupSize(settings) : null;
  return { dtype: type === 'float' ? 'float8_e4m3fn' : 'int8', groupSize, isStatic };
}

/** Targets are names, patterns behind `re:`, or classes of layers, of which only `Linear` has weights that we read. */
function schemeOf(layer: string, schemes: readonly Scheme[]): Scheme {
  const named = schemes.find(({ targets }) => targets.some((target) => names(target, layer)));
  const scheme = named ?? schemes.find(({ targets }) => targets.includes('Linear'));
  if (scheme) return scheme;
  throw unsupported(`no group of "config_groups" has ${layer}, whose weight is quantized`);
}

function names(target: string, layer: string): boolean {
  if (!target.startsWith('re:')) return target === layer;
  try {
    return new RegExp(`^(?:${target.slice(3)})`).test(layer);
  } catch {
    throw unsupported(`"targets" has ${JSON.stringify(target)}, which is no pattern`);
  }
}

function adaptPlain(layer: string, { weights, activations }: Scheme, type: string, raw: RawTensors): Entries {
  oneOf(weights, 'type', [type], 'int');
  oneOf(weights, 'num_bits', [8]);
  oneOf(weights, 'symmetric', [true], true);
  return adaptRowCodes(
    layer,
    { scaleOf: readStrategy(weights), scaleSuffix: '.weight_scale', activations },
    raw,
  );
}

function readStrategy(weights: JsonObject): ScaleOf {
  const strategy = oneOf(weights, 'strategy', ['tensor', 'channel', 'block', 'group'], 'tensor');
  if (strategy === 'tensor') return 'tensor';
  if (strategy === 'channel') return 'row';
  if (strategy === 'group') return [1, readGroupSize(weights) ?? 0];
  return readBlock(weights['block_structure']);
}

/** `[rows, columns]` that share a scale. */
export function readBlock(block: unknown): readonly [number, number] {
  const isBlock = Array.isArray(block) && block.length === 2;
  if (isBlock && block.every((size) => Number.isInteger(size) && size > 0)) return block as [number, number];
  throw unsupported(`${JSON.stringify(block)} is no block of rows and columns`);
}

/**
 * Of a layer [rows, columns]: `weight_packed` int32 [rows, columns · bits / 32], codes around the middle of their range;
 * `weight_scale` [rows, groups]; `weight_zero_point` int32 [rows · bits / 32, groups], packed along its columns.
 */
function adaptPacked(
  layer: string,
  { weights, activations }: Scheme,
  orders: ColumnOrders,
  raw: RawTensors,
): Entries {
  oneOf(weights, 'type', ['int'], 'int');
  const bits = oneOf(weights, 'num_bits', [4, 8]);
  const hasZeros = !oneOf(weights, 'symmetric', bits === 8 ? [true] : [true, false], true);
  const strategy = oneOf(weights, 'strategy', ['channel', 'group'], 'group');
  const groupSize = strategy === 'group' ? readGroupSize(weights) : null;
  const [rows, words] = raw.matrixShape(`${layer}${PACKED}`);
  const columns = (words * 32) / bits;
  const groups = numGroups(layer, columns, groupSize);
  const codes = raw.claim(`${layer}${PACKED}`, ['I32'], [rows, words]);
  const scales = raw.claim(`${layer}.weight_scale`, FLOATS, [rows, groups]);
  const zeroShape = [Math.ceil((rows * bits) / 32), groups];
  const zeros = hasZeros ? raw.claim(`${layer}.weight_zero_point`, ['I32'], zeroShape) : null;
  checkShape(`${layer}.weight_shape`, [rows, columns], raw);
  const index = `${layer}.weight_g_idx`;
  return canonicalTensors({
    name: `${layer}.weight`,
    rows,
    columns,
    format: { dtype: bits === 4 ? 'uint4' : 'int8', groupSize, hasZeros },
    activations,
    order: raw.has(index) ? orders.read(layer, index, columns, groupSize, raw) : null,
    codes: bits === 4 ? codes : () => toSigned(codes.read()),
    scales: () => (zeros ? inPairs(readScales(scales), readZeros(zeros, rows, groups)) : readScales(scales)),
  });
}

/** The shape that was packed, which must fill its words. */
function checkShape(name: string, expected: readonly number[], raw: RawTensors): void {
  const { dtype, read } = raw.claim(name, ['I64', 'I32'], [2]);
  const bytes = Buffer.from(read());
  const sizes = [0, 1].map((i) =>
    dtype === 'I64' ? Number(bytes.readBigInt64LE(8 * i)) : bytes.readInt32LE(4 * i),
  );
  if (sizes.every((size, i) => size === expected[i])) return;
  throw badTensor(name, `says ${sizes.join(' × ')}, but the codes are ${expected.join(' × ')}`);
}

/** `[rows, groups]`: eight rows to a word. */
function readZeros(zeros: RawTensor, rows: number, groups: number): Uint8Array {
  const words = readWords(zeros);
  const numbers = new Uint8Array(rows * groups);
  for (let i = 0; i < numbers.length; i++) {
    const [row, group] = [Math.floor(i / groups), i % groups];
    numbers[i] = (words[(row >> 3) * groups + group] >>> (4 * (row & 7))) & 15;
  }
  return numbers;
}
