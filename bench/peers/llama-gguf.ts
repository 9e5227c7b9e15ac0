// Llama models as GGUF files for the peer: random weights of a config's shape, or a converted checkpoint.
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { openCheckpoint } from '../../src/checkpoint/checkpoint.ts';
import type { HFConfig } from '../../src/models/model-definition.ts';
import { decodeTensor } from '../../src/tensor/codes.ts';
import { toBfloat16Bits, toFloat16Bits } from '../../src/tensor/dtype.ts';
import { Random } from '../../src/bench/random.ts';
import {
  ALIGNMENT,
  TENSOR_TYPES,
  writeGguf,
  type GgufTensor,
  type GgufValue,
  type TensorType,
} from './gguf.ts';

type Metadata = Record<string, GgufValue>;

/** The fields of a Llama config, in the spelling of old and new files. */
interface LlamaShape {
  readonly vocabSize: number;
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly numLayers: number;
  readonly numHeads: number;
  readonly numKvHeads: number;
  readonly headDim: number;
  readonly maxPositions: number;
  readonly ropeTheta: number;
  readonly normEps: number;
  readonly isTied: boolean;
}

function shapeOf(config: HFConfig): LlamaShape {
  const count = (key: string) => Number(config[key]);
  const rope = config['rope_parameters'] as { rope_theta: number } | undefined;
  return {
    vocabSize: count('vocab_size'),
    hiddenSize: count('hidden_size'),
    intermediateSize: count('intermediate_size'),
    numLayers: count('num_hidden_layers'),
    numHeads: count('num_attention_heads'),
    numKvHeads: count('num_key_value_heads'),
    headDim: Number(config['head_dim'] ?? count('hidden_size') / count('num_attention_heads')),
    maxPositions: count('max_position_embeddings'),
    ropeTheta: rope?.rope_theta ?? count('rope_theta'),
    normEps: count('rms_norm_eps'),
    isTied: config['tie_word_embeddings'] === true,
  };
}

/** One tensor under both names. `columns` is null for a norm's vector; `heads` are those whose rows rotate. */
interface TensorEntry {
  readonly ggufName: string;
  readonly name: string;
  readonly rows: number;
  readonly columns: number | null;
  readonly heads: number | null;
}

function llamaTensors(shape: LlamaShape): TensorEntry[] {
  const { hiddenSize: hidden, intermediateSize, headDim, numHeads, numKvHeads } = shape;
  const matrix = (
    ggufName: string,
    name: string,
    rows: number,
    columns: number,
    heads: number | null = null,
  ) => ({
    ...{ ggufName: `${ggufName}.weight`, name: `${name}.weight`, rows, columns, heads },
  });
  const norm = (ggufName: string, name: string) => ({ ...matrix(ggufName, name, hidden, 0), columns: null });
  const layer = (i: number): TensorEntry[] => {
    const gguf = `blk.${i}`;
    const hf = `model.layers.${i}`;
    return [
      norm(`${gguf}.attn_norm`, `${hf}.input_layernorm`),
      matrix(`${gguf}.attn_q`, `${hf}.self_attn.q_proj`, numHeads * headDim, hidden, numHeads),
      matrix(`${gguf}.attn_k`, `${hf}.self_attn.k_proj`, numKvHeads * headDim, hidden, numKvHeads),
      matrix(`${gguf}.attn_v`, `${hf}.self_attn.v_proj`, numKvHeads * headDim, hidden),
      matrix(`${gguf}.attn_output`, `${hf}.self_attn.o_proj`, hidden, numHeads * headDim),
      norm(`${gguf}.ffn_norm`, `${hf}.post_attention_layernorm`),
      matrix(`${gguf}.ffn_gate`, `${hf}.mlp.gate_proj`, intermediateSize, hidden),
      matrix(`${gguf}.ffn_up`, `${hf}.mlp.up_proj`, intermediateSize, hidden),
      matrix(`${gguf}.ffn_down`, `${hf}.mlp.down_proj`, hidden, intermediateSize),
    ];
  };
  return [
    matrix('token_embd', 'model.embed_tokens', shape.vocabSize, hidden),
    ...Array.from({ length: shape.numLayers }, (_, i) => layer(i)).flat(),
    norm('output_norm', 'model.norm'),
    ...(shape.isTied ? [] : [matrix('output', 'lm_head', shape.vocabSize, hidden)]),
  ];
}

function llamaMetadata(name: string, shape: LlamaShape, type: TensorType): Metadata {
  return {
    'general.architecture': ['string', 'llama'],
    'general.name': ['string', name],
    'general.alignment': ['uint32', ALIGNMENT],
    'general.file_type': ['uint32', TENSOR_TYPES[type].fileType],
    'llama.block_count': ['uint32', shape.numLayers],
    'llama.context_length': ['uint32', shape.maxPositions],
    'llama.embedding_length': ['uint32', shape.hiddenSize],
    'llama.feed_forward_length': ['uint32', shape.intermediateSize],
    'llama.attention.head_count': ['uint32', shape.numHeads],
    'llama.attention.head_count_kv': ['uint32', shape.numKvHeads],
    'llama.attention.key_length': ['uint32', shape.headDim],
    'llama.attention.value_length': ['uint32', shape.headDim],
    'llama.attention.layer_norm_rms_epsilon': ['float32', shape.normEps],
    'llama.rope.dimension_count': ['uint32', shape.headDim],
    'llama.rope.freq_base': ['float32', shape.ropeTheta],
    'llama.vocab_size': ['uint32', shape.vocabSize],
  };
}

function encode(values: Float32Array, type: TensorType): Uint8Array {
  if (type === 'f32') return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
  if (type === 'q8_0') return encodeBlocks(values, type, encodeBlock8);
  if (type === 'q4_0') return encodeBlocks(values, type, encodeBlock4);
  const bits = Uint16Array.from(values, type === 'f16' ? toFloat16Bits : toBfloat16Bits);
  return new Uint8Array(bits.buffer);
}

const BLOCK_SIZE = 32;

/** Blocks of a float16 scale and the codes of 32 elements. */
function encodeBlocks(
  values: Float32Array,
  type: TensorType,
  encodeBlock: (block: Float32Array, codes: Uint8Array) => number,
): Uint8Array {
  const blockBytes = BLOCK_SIZE * TENSOR_TYPES[type].itemSize;
  const bytes = new Uint8Array((values.length / BLOCK_SIZE) * blockBytes);
  const view = new DataView(bytes.buffer);
  for (let i = 0, at = 0; i < values.length; i += BLOCK_SIZE, at += blockBytes) {
    const codes = bytes.subarray(at + 2, at + blockBytes);
    view.setUint16(at, toFloat16Bits(encodeBlock(values.subarray(i, i + BLOCK_SIZE), codes)), true);
  }
  return bytes;
}

/** One byte each; gives the scale. */
function encodeBlock8(block: Float32Array, codes: Uint8Array): number {
  const scale = Math.max(...block.map(Math.abs)) / 127 || 1;
  block.forEach((value, i) => (codes[i] = Math.round(value / scale)));
  return scale;
}

/** Half a byte each, 8 more than the code; elements 16 apart share a byte. The largest is −8, whatever its sign. */
function encodeBlock4(block: Float32Array, codes: Uint8Array): number {
  const largest = block.reduce((most, value) => (Math.abs(value) > Math.abs(most) ? value : most), 0);
  const scale = largest / -8 || 1;
  const code = (value: number) => Math.min(15, Math.round(value / scale) + 8);
  for (let i = 0; i < 16; i++) codes[i] = code(block[i]) | (code(block[i + 16]) << 4);
  return scale;
}

/** Norms stay in float32, as llama.cpp wants them. */
function ggufTensor(entry: TensorEntry, type: TensorType, pieces: () => Iterable<Uint8Array>): GgufTensor {
  const { ggufName: name, rows, columns } = entry;
  return columns === null
    ? { name, type: 'f32', dims: [rows], pieces }
    : { name, type, dims: [columns, rows], pieces };
}

// --- random weights

/** Rows of random numbers repeat after so many blocks: a prime, so that they do not come back at a power of two. */
const POOL_BLOCKS = 131_071;
const POOL_SIZE = POOL_BLOCKS * BLOCK_SIZE;

function randomPool(type: TensorType): Uint8Array {
  const random = new Random(1);
  // The sum of four uniform numbers, scaled to a standard deviation of 0.02, is normal enough for a speed test.
  const normal = () => (random.next() + random.next() + random.next() + random.next() - 2) * 0.0346;
  return encode(Float32Array.from({ length: POOL_SIZE }, normal), type);
}

function* repeatPool(pool: Uint8Array, numBytes: number, start: number): Iterable<Uint8Array> {
  for (let at = start, left = numBytes; left > 0; at = 0) {
    const piece = pool.subarray(at, Math.min(pool.length, at + left));
    left -= piece.length;
    yield piece;
  }
}

/** A made-up vocabulary of the SentencePiece kind: three special tokens, 256 bytes, then numbered words. */
function madeUpVocabulary(size: number): Metadata {
  const bytes = Array.from({ length: 256 }, (_, b) => `<0x${b.toString(16).toUpperCase().padStart(2, '0')}>`);
  const words = Array.from({ length: size - 259 }, (_, i) => `\u2581w${i}`);
  const kinds = [2, 3, 3, ...bytes.map(() => 6), ...words.map(() => 1)];
  return {
    'tokenizer.ggml.model': ['string', 'llama'],
    'tokenizer.ggml.pre': ['string', 'default'],
    'tokenizer.ggml.tokens': ['array', 'string', ['<unk>', '<s>', '</s>', ...bytes, ...words]],
    'tokenizer.ggml.scores': ['array', 'float32', kinds.map((_, i) => -i)],
    'tokenizer.ggml.token_type': ['array', 'int32', kinds],
    'tokenizer.ggml.bos_token_id': ['uint32', 1],
    'tokenizer.ggml.eos_token_id': ['uint32', 2],
    'tokenizer.ggml.unknown_token_id': ['uint32', 0],
  };
}

export function writeRandomLlama(file: string, name: string, config: HFConfig, type: TensorType): void {
  const shape = shapeOf(config);
  const pool = randomPool(type);
  const ones = encode(new Float32Array(shape.hiddenSize).fill(1), 'f32');
  const tensors = llamaTensors(shape).map((entry, i) => {
    const { rows, columns } = entry;
    if (columns === null) return ggufTensor(entry, type, () => [ones]);
    const { itemSize } = TENSOR_TYPES[type];
    const start = ((i * 39_119) % POOL_BLOCKS) * BLOCK_SIZE * itemSize;
    return ggufTensor(entry, type, () => repeatPool(pool, rows * columns * itemSize, start));
  });
  writeGguf(file, { ...llamaMetadata(name, shape, type), ...madeUpVocabulary(shape.vocabSize) }, tensors);
}

// --- a converted checkpoint

/**
 * Rows of q and k in llama.cpp's order: Hugging Face rotates the halves of a head (i, i + d/2), llama.cpp neighbours
 * (2i, 2i + 1).
 */
function interleaveHeads(values: Float32Array, rows: number, columns: number, heads: number): Float32Array {
  const result = new Float32Array(values.length);
  const headDim = rows / heads;
  for (let row = 0; row < rows; row++) {
    const inHead = row % headDim;
    const half = inHead < headDim / 2 ? 0 : 1;
    const target = row - inHead + 2 * (inHead - (half * headDim) / 2) + half;
    result.set(values.subarray(row * columns, (row + 1) * columns), target * columns);
  }
  return result;
}

interface TokenizerJson {
  readonly model: {
    readonly vocab: Record<string, number>;
    readonly merges: readonly (string | readonly string[])[];
  };
  readonly added_tokens: readonly { readonly id: number; readonly content: string }[];
}

/** A byte-level BPE vocabulary; added tokens are control tokens (kind 3). */
function bpeVocabulary(directory: string, config: HFConfig, size: number): Metadata {
  const { model, added_tokens } = JSON.parse(
    readFileSync(path.join(directory, 'tokenizer.json'), 'utf8'),
  ) as TokenizerJson;
  const tokens = Array.from({ length: size }, (_, i) => `[unused${i}]`);
  const kinds = new Array<number>(size).fill(1);
  for (const [token, id] of Object.entries(model.vocab)) tokens[id] = token;
  for (const { id, content } of added_tokens) [tokens[id], kinds[id]] = [content, 3];
  const merges = model.merges.map((merge) => (typeof merge === 'string' ? merge : merge.join(' ')));
  return {
    'tokenizer.ggml.model': ['string', 'gpt2'],
    'tokenizer.ggml.pre': ['string', 'gpt-2'],
    'tokenizer.ggml.tokens': ['array', 'string', tokens],
    'tokenizer.ggml.token_type': ['array', 'int32', kinds],
    'tokenizer.ggml.merges': ['array', 'string', merges],
    'tokenizer.ggml.bos_token_id': ['uint32', Number(config['bos_token_id'])],
    'tokenizer.ggml.eos_token_id': ['uint32', Number(config['eos_token_id'])],
  };
}

export async function convertLlama(
  file: string,
  name: string,
  directory: string,
  type: TensorType,
): Promise<void> {
  const checkpoint = await openCheckpoint(directory);
  const config = checkpoint.config;
  const shape = shapeOf(config);
  const tensors = llamaTensors(shape).map((entry) =>
    ggufTensor(entry, type, () => {
      const values = decodeTensor(checkpoint.source.read(entry.name));
      if (entry.columns === null) return [encode(values, 'f32')];
      const { rows, columns, heads } = entry;
      return [encode(heads === null ? values : interleaveHeads(values, rows, columns, heads), type)];
    }),
  );
  const vocabulary = bpeVocabulary(directory, config, shape.vocabSize);
  writeGguf(file, { ...llamaMetadata(name, shape, type), ...vocabulary }, tensors);
  checkpoint.source.close();
}
