// GPTQ's checkpoints (AutoGPTQ, GPTQModel): codes of 4 or 8 bits, neighbouring columns of a row to a word.
import { transposed } from '../../tensor/transposed.ts';
import { impliedZero } from '../../tensor/weight-format.ts';
import type { JsonObject } from '../../util/json-file.ts';
import { ColumnOrders } from './column-order.ts';
import { canonicalTensors, inPairs } from './grouped.ts';
import {
  badTensor,
  bytesOf,
  FLOATS,
  readScales,
  readWords,
  type AdaptedTensor,
  type AdaptedTensors,
  type RawTensor,
  type RawTensors,
} from './raw-tensors.ts';
import { isOff, numGroups, oneOf, readGroupSize, unsupported } from './settings.ts';
import { toSigned, unpackWords } from './words.ts';

const SUFFIX = '.qweight';

interface Layout {
  readonly bits: 4 | 8;
  readonly groupSize: number | null;
  /** Every zero is in the middle of the codes. */
  readonly isSymmetric: boolean;
  /** What is stored of a zero is that much less: 1 in the first version of the format. */
  readonly zeroOffset: number;
  /** Columns may have been quantized in another order than they lie in. */
  readonly hasOrder: boolean;
}

/**
 * Of a layer [rows, columns]: `qweight` int32 [columns · bits / 32, rows], `qzeros` int32 [groups, rows · bits / 32],
 * `scales` [groups, rows], `g_idx` int32 [columns], the group of each; value = (code − zero) · scale.
 */
export function adaptGptq(settings: JsonObject, raw: RawTensors): AdaptedTensors {
  const layout = readLayout(settings);
  const layers = raw.names
    .filter((name) => name.endsWith(SUFFIX))
    .map((name) => name.slice(0, -SUFFIX.length));
  const orders = new ColumnOrders();
  return new Map(layers.flatMap((layer) => adaptLayer(layer, layout, orders, raw)));
}

function readLayout(settings: JsonObject): Layout {
  const bits = oneOf(settings, 'bits', [4, 8]);
  const version = oneOf(settings, 'checkpoint_format', ['gptq', 'gptq_v2'], 'gptq');
  const isSymmetric = oneOf(settings, 'sym', bits === 8 ? [true] : [true, false], true);
  if (!isOff(settings['dynamic'])) throw unsupported('"dynamic" settings of single layers cannot be read');
  return {
    bits,
    groupSize: readGroupSize(settings),
    isSymmetric,
    zeroOffset: version === 'gptq' ? 1 : 0,
    hasOrder: settings['desc_act'] === true,
  };
}

function adaptLayer(
  layer: string,
  layout: Layout,
  orders: ColumnOrders,
  raw: RawTensors,
): readonly (readonly [string, AdaptedTensor])[] {
  const { bits, groupSize, isSymmetric } = layout;
  const [words, rows] = raw.matrixShape(`${layer}${SUFFIX}`);
  const columns = (words * 32) / bits;
  const groups = numGroups(layer, columns, groupSize);
  const codes = raw.claim(`${layer}${SUFFIX}`, ['I32'], [words, rows]);
  const zeros = raw.claim(`${layer}.qzeros`, ['I32'], [groups, Math.ceil((rows * bits) / 32)]);
  const scales = raw.claim(`${layer}.scales`, FLOATS, [groups, rows]);
  const index = `${layer}.g_idx`;
  const hasIndex = layout.hasOrder || raw.has(index);
  const order = hasIndex ? orders.read(layer, index, columns, groupSize, raw) : null;
  const dtype = bits === 4 ? 'uint4' : 'int8';
  return canonicalTensors({
    name: `${layer}.weight`,
    rows,
    columns,
    format: { dtype, groupSize, hasZeros: !isSymmetric },
    order,
    codes: () => {
      // Eight codes of a word, the first lowest, are the four bytes that we want of them.
      const bytes = bytesOf(transposed(readWords(codes), words));
      return bits === 4 ? bytes : toSigned(bytes);
    },
    scales: () => {
      const values = transposed(readScales(scales), groups);
      const groupZeros = readZeros(zeros, rows, layout);
      return isSymmetric ? values : inPairs(values, transposed(groupZeros, groups));
    },
  });
}

/** `[groups, rows]`. */
function readZeros(zeros: RawTensor, rows: number, { bits, isSymmetric, zeroOffset }: Layout): Uint8Array {
  const stored = unpackWords(readWords(zeros), bits, rows);
  const values = stored.map((zero) => zero + zeroOffset);
  const middle = bits === 8 ? 128 : impliedZero('uint4');
  const bad = values.find((zero) => (isSymmetric ? zero !== middle : zero >= 2 ** bits));
  if (bad === undefined) return values;
  const problem = isSymmetric ? `though "sym" is true` : `which ${bits} bits do not have`;
  throw badTensor(zeros.name, `holds a zero of ${bad}, ${problem}`);
}
