// Checkpoints of float8 weights: transformers' `fp8` (whole tensors, or blocks as DeepSeek publishes), FBGEMM's, ModelOpt's.
import type { ActivationFormat } from '../../tensor/weight-format.ts';
import type { JsonObject } from '../../util/json-file.ts';
import { readBlock } from './compressed-tensors.ts';
import type { AdaptedTensors, RawTensors } from './raw-tensors.ts';
import { adaptRowCodes, layersOf, type RowCodes } from './row-codes.ts';
import { isOff, oneOf, unsupported } from './settings.ts';

const DYNAMIC: ActivationFormat = { dtype: 'float8_e4m3fn', groupSize: null, isStatic: false };
const STATIC: ActivationFormat = { ...DYNAMIC, isStatic: true };

/** Of transformers' `fp8`. With blocks, `weight_scale_inv` [row blocks, column blocks] multiplies, for all that it is called. */
export function fp8Codes(settings: JsonObject): RowCodes {
  oneOf(settings, 'fmt', ['e4m3', 'float8_e4m3fn'], 'e4m3');
  if (!isOff(settings['scale_fmt'])) {
    throw unsupported(
      `scale_fmt is ${JSON.stringify(settings['scale_fmt'])}, and only plain scales can be read`,
    );
  }
  const block = settings['weight_block_size'] ?? null;
  const scheme = oneOf(
    settings,
    'activation_scheme',
    block === null ? ['dynamic', 'static'] : ['dynamic'],
    'dynamic',
  );
  if (block === null) {
    const activations = scheme === 'static' ? STATIC : DYNAMIC;
    return { scaleOf: 'tensor', scaleSuffix: '.weight_scale', activations };
  }
  const scaleOf = readBlock(block);
  return { scaleOf, scaleSuffix: '.weight_scale_inv', activations: { ...DYNAMIC, groupSize: scaleOf[1] } };
}

const FBGEMM_CODES: RowCodes = { scaleOf: 'row', scaleSuffix: '.weight_scale', activations: DYNAMIC };

export function modelOptCodes(settings: JsonObject): RowCodes {
  const algorithm = oneOf(settings, 'quant_algo', ['FP8', 'FP8_PER_CHANNEL_PER_TOKEN']);
  const kinds: Readonly<Record<typeof algorithm, RowCodes>> = {
    FP8: { scaleOf: 'tensor', scaleSuffix: '.weight_scale', activations: STATIC },
    FP8_PER_CHANNEL_PER_TOKEN: { scaleOf: 'row', scaleSuffix: '.weight_scale', activations: DYNAMIC },
  };
  return kinds[algorithm];
}

export function adaptFp8(settings: JsonObject, raw: RawTensors): AdaptedTensors {
  return adaptLayers(fp8Codes(settings), raw);
}

/**
 * Its `activation_scale_ub` bounds what an activation may be before it is cut off; ours are never cut off, their token's
 * scale grows instead.
 */
export function adaptFbgemmFp8(_: JsonObject, raw: RawTensors): AdaptedTensors {
  for (const name of raw.names.filter((tensor) => tensor.endsWith('.input_scale_ub'))) raw.claimScalar(name);
  return adaptLayers(FBGEMM_CODES, raw);
}

export function adaptModelOpt(settings: JsonObject, raw: RawTensors): AdaptedTensors {
  return adaptLayers(modelOptCodes(settings), raw);
}

function adaptLayers(kind: RowCodes, raw: RawTensors): AdaptedTensors {
  return new Map(layersOf(raw, 'F8_E4M3').flatMap((layer) => adaptRowCodes(layer, kind, raw)));
}
