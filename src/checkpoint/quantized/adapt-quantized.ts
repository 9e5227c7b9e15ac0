// Checkpoints that others quantized: whatever their layout, they become codes and scales by our canonical names.
import { decodeCodes } from '../../tensor/codes.ts';
import { decodeFloats } from '../../tensor/dtype.ts';
import { dequantizeRows } from '../../tensor/quantize-rows.ts';
import {
  inputScaleTensorName,
  scaleTensorName,
  type TensorCatalog,
  type TensorFacts,
  type TensorSource,
} from '../../tensor/tensor-source.ts';
import { grouped } from '../../tensor/weight-format.ts';
import { NeedletailError } from '../../util/errors.ts';
import { isJsonObject, type JsonObject } from '../../util/json-file.ts';
import { storedTensor, type SafetensorsSource, type TensorPlace } from '../safetensors.ts';
import { adaptAwq } from './awq.ts';
import { adaptCompressedTensors } from './compressed-tensors.ts';
import { adaptFbgemmFp8, adaptFp8, adaptModelOpt } from './fp8.ts';
import { adaptGptq } from './gptq.ts';
import {
  badTensor,
  bytesOf,
  RawTensors,
  readScales,
  type AdaptedTensor,
  type AdaptedTensors,
} from './raw-tensors.ts';
import { unsupported } from './settings.ts';

type Adapter = (settings: JsonObject, raw: RawTensors) => AdaptedTensors;

/** By `quant_method`. */
const ADAPTERS: ReadonlyMap<string, Adapter> = new Map([
  ['awq', adaptAwq],
  ['gptq', adaptGptq],
  ['compressed-tensors', adaptCompressedTensors],
  ['fp8', adaptFp8],
  ['fbgemm_fp8', adaptFbgemmFp8],
  ['modelopt', adaptModelOpt],
]);

export interface AdaptedCheckpoint {
  /** Without what has been adapted: to a model it is one of its usual checkpoints. */
  readonly config: JsonObject;
  readonly tensors: TensorCatalog;
  readonly source: TensorSource;
}

/** Types that only quantized numbers have; other whole numbers can be buffers of a model. */
const CODE_TYPES: ReadonlySet<string> = new Set(['I8', 'I32', 'F8_E4M3', 'F8_E5M2', 'F8_E8M0', 'F4']);

/**
 * Null for a checkpoint of floats, and for a method that is not read (which the model then refuses by its config).
 * Throws `unsupported_model` for a variant that is not read, `bad_checkpoint` for tensors that are not what it says.
 */
export function adaptQuantized(
  { quantization_config: settings, ...config }: JsonObject,
  places: ReadonlyMap<string, TensorPlace>,
  source: SafetensorsSource,
): AdaptedCheckpoint | null {
  if (!isJsonObject(settings)) return null;
  const method = String(settings['quant_method']);
  const adapt = ADAPTERS.get(method);
  if (!adapt) return null;
  const raw = new RawTensors(places, source);
  const adapted = withFloats(adapt(settings, raw));
  if (adapted.size === 0) throw noCodes(method);
  checkCacheScales(raw);
  return { config, tensors: catalogOf(adapted, raw), source: adaptedSource(adapted, source) };
}

function noCodes(method: string): NeedletailError {
  return new NeedletailError(
    'bad_checkpoint',
    `the quantization_config of config.json names ${method}, but no tensor holds codes; fetch the checkpoint again, or ` +
      'take that field out if its weights are floats',
  );
}

/** Latent attention takes this product apart, its two halves by heads: codes of it are of no use. */
const NEEDED_AS_FLOATS = /\.kv_b_proj\.weight$/;

function withFloats(adapted: AdaptedTensors): AdaptedTensors {
  const tensors = new Map(adapted);
  for (const [name, codes] of adapted) {
    const { quantized } = codes.facts;
    if (!NEEDED_AS_FLOATS.test(name) || !quantized) continue;
    if (quantized.inputOrder !== undefined)
      throw unsupported(`${name} is quantized with its columns in another order, and is needed as it was`);
    tensors.set(name, dequantized(codes, adapted.get(scaleTensorName(name))!));
    tensors.delete(scaleTensorName(name));
    tensors.delete(inputScaleTensorName(name));
  }
  return tensors;
}

function dequantized({ facts, read }: AdaptedTensor, scales: AdaptedTensor): AdaptedTensor {
  const { shape } = facts;
  const { weights } = facts.quantized!;
  return {
    facts: { dtype: 'float32', shape },
    read: () => {
      const codes = decodeCodes(weights.dtype, read());
      const values = decodeFloats('float32', scales.read());
      return bytesOf(dequantizeRows(codes, values, grouped(weights, shape[1])));
    },
  };
}

const CACHE_SCALE = /\.(?:[qkv]_scale|kv_scale|prob_output_scale|[kv]_proj\.output_scale)$/;

/** Keys and values are cached as they are: scales other than 1 would change what they mean. */
function checkCacheScales(raw: RawTensors): void {
  for (const name of raw.names.filter((tensor) => CACHE_SCALE.test(tensor))) {
    const [scale] = readScales(raw.claimScalar(name));
    if (scale === 1) continue;
    throw new NeedletailError(
      'unsupported_model',
      `tensor ${name} scales the KV cache by ${scale}, and only 1 can be read; take a checkpoint without scales for the ` +
        'KV cache, and choose its type with --kv-cache-dtype',
    );
  }
}

function catalogOf(adapted: AdaptedTensors, raw: RawTensors): TensorCatalog {
  const catalog = new Map<string, TensorFacts>([...adapted].map(([name, { facts }]) => [name, facts]));
  for (const name of raw.unclaimed) {
    if (catalog.has(name)) throw badTensor(name, 'is there both as floats and as codes');
    const facts = raw.factsOf(name);
    if (facts) catalog.set(name, facts);
    else if (CODE_TYPES.has(raw.dtypeOf(name)!)) {
      throw badTensor(
        name,
        `is ${raw.dtypeOf(name)}, for which the quantization_config of config.json has no place`,
      );
    }
  }
  return catalog;
}

function adaptedSource(adapted: AdaptedTensors, source: TensorSource): TensorSource {
  return {
    read(name) {
      const tensor = adapted.get(name);
      if (!tensor) return source.read(name);
      const { facts, file, read } = tensor;
      if (file) return storedTensor(facts, file, read);
      return { dtype: facts.dtype, shape: facts.shape, bytes: read() };
    },
    close: () => source.close(),
  };
}
