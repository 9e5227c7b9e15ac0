// A writer of GGUF (version 3), the container that llama.cpp reads: a header, metadata, tensor infos, tensor bytes.
import { closeSync, openSync, writeSync } from 'node:fs';

/** ggml's numbers of the tensor types that the comparison uses; those of blocks take 34 or 18 bytes for 32 elements. */
export const TENSOR_TYPES = {
  f32: { id: 0, itemSize: 4, fileType: 0 },
  f16: { id: 1, itemSize: 2, fileType: 1 },
  bf16: { id: 30, itemSize: 2, fileType: 32 },
  q8_0: { id: 8, itemSize: 34 / 32, fileType: 7 },
  q4_0: { id: 2, itemSize: 18 / 32, fileType: 2 },
} as const;
export type TensorType = keyof typeof TENSOR_TYPES;

export interface GgufTensor {
  readonly name: string;
  readonly type: TensorType;
  /** Row length first, as ggml counts. */
  readonly dims: readonly number[];
  /** The bytes, row-major, in pieces of any size. */
  readonly pieces: () => Iterable<Uint8Array>;
}

const VALUE_TYPES = { uint32: 4, int32: 5, float32: 6, bool: 7, string: 8, array: 9 } as const;
type ScalarType = 'uint32' | 'int32' | 'float32' | 'bool' | 'string';
type Scalar = number | boolean | string;

/** A metadata value with its type, or a list of values of one type. */
export type GgufValue = readonly [ScalarType, Scalar] | readonly ['array', ScalarType, readonly Scalar[]];

/** Tensors begin at multiples of this many bytes. */
export const ALIGNMENT = 32;
const padding = (bytes: number) => Buffer.alloc((ALIGNMENT - (bytes % ALIGNMENT)) % ALIGNMENT);

const u32 = (value: number) => {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
};
const u64 = (value: number) => {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(value));
  return bytes;
};
const text = (value: string) => Buffer.concat([u64(Buffer.byteLength(value)), Buffer.from(value)]);

function scalar(type: ScalarType, value: Scalar): Buffer {
  if (type === 'string') return text(String(value));
  if (type === 'bool') return Buffer.of(value ? 1 : 0);
  const bytes = Buffer.alloc(4);
  if (type === 'float32') bytes.writeFloatLE(Number(value));
  else if (type === 'int32') bytes.writeInt32LE(Number(value));
  else bytes.writeUInt32LE(Number(value));
  return bytes;
}

function metadataEntry([key, value]: [string, GgufValue]): Buffer {
  const head = [text(key), u32(VALUE_TYPES[value[0]])];
  if (value[0] !== 'array') return Buffer.concat([...head, scalar(value[0], value[1])]);
  const [, type, elements] = value;
  const list = elements.map((element) => scalar(type, element));
  return Buffer.concat([...head, u32(VALUE_TYPES[type]), u64(elements.length), ...list]);
}

function tensorBytes({ type, dims }: GgufTensor): number {
  return dims.reduce((product, dim) => product * dim, TENSOR_TYPES[type].itemSize);
}

/** Info of each tensor; offsets count from the start of the tensor data. */
function tensorInfos(tensors: readonly GgufTensor[]): Buffer[] {
  let offset = 0;
  return tensors.map((tensor) => {
    const { name, type, dims } = tensor;
    const info = [text(name), u32(dims.length), ...dims.map(u64), u32(TENSOR_TYPES[type].id), u64(offset)];
    offset += tensorBytes(tensor) + padding(tensorBytes(tensor)).length;
    return Buffer.concat(info);
  });
}

export function writeGguf(
  path: string,
  metadata: Readonly<Record<string, GgufValue>>,
  tensors: readonly GgufTensor[],
): void {
  const entries = Object.entries(metadata);
  const head = Buffer.concat([
    ...[Buffer.from('GGUF'), u32(3), u64(tensors.length), u64(entries.length)],
    ...entries.map(metadataEntry),
    ...tensorInfos(tensors),
  ]);
  const file = openSync(path, 'w');
  try {
    writeAll(file, head);
    writeAll(file, padding(head.length));
    for (const tensor of tensors) writeTensor(file, tensor);
  } finally {
    closeSync(file);
  }
}

function writeTensor(file: number, tensor: GgufTensor): void {
  let written = 0;
  for (const piece of tensor.pieces()) written += writeAll(file, piece);
  if (written !== tensorBytes(tensor))
    throw new Error(`${tensor.name}: ${written} bytes written, not ${tensorBytes(tensor)}`);
  writeAll(file, padding(written));
}

/** Writes every byte, however the system cuts it (2 GiB at most in one call). */
function writeAll(file: number, bytes: Uint8Array): number {
  let done = 0;
  while (done < bytes.length) done += writeSync(file, bytes, done, Math.min(bytes.length - done, 2 ** 26));
  return bytes.length;
}
