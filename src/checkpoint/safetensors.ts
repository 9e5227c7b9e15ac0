// Tensors of safetensors files, mapped into memory where somebody wants their bytes, and a writer.
import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { FileMapping } from '../ffi/mmap.ts';
import type { FloatDType } from '../tensor/dtype.ts';
import type { FileRange, TensorSource, TensorView } from '../tensor/tensor-source.ts';
import { NeedletailError } from '../util/errors.ts';
import type { SafetensorsTensor } from './safetensors-header.ts';

const FLOAT_DTYPES: ReadonlyMap<string, FloatDType> = new Map([
  ['F32', 'float32'],
  ['BF16', 'bfloat16'],
  ['F16', 'float16'],
]);

/** The type as we call it, or null for one that no weight of ours can have. */
export function floatDTypeOf(tensor: SafetensorsTensor): FloatDType | null {
  return FLOAT_DTYPES.get(tensor.dtype) ?? null;
}

/** Where a tensor of a checkpoint lies. */
export interface TensorPlace {
  readonly file: string;
  readonly tensor: SafetensorsTensor;
}

/** Reads `length` bytes at `offset` of one file. */
interface FileBytes {
  read(offset: number, length: number): Uint8Array;
  close(): void;
}

/** The tensors of one or several files. A file is opened when the first of its bytes are wanted. */
export class SafetensorsSource implements TensorSource {
  readonly #places: ReadonlyMap<string, TensorPlace>;
  readonly #files = new Map<string, FileBytes>();
  readonly #openFile: (path: string) => FileBytes;

  /** @param mapping `never` reads tensors into memory of their own, as happens where files cannot be mapped */
  constructor(places: ReadonlyMap<string, TensorPlace>, mapping: 'auto' | 'never' = 'auto') {
    this.#places = places;
    this.#openFile = mapping === 'auto' ? openMapped : openPlain;
  }

  read(name: string): TensorView {
    const { file, tensor } = this.#place(name);
    const dtype = floatDTypeOf(tensor);
    if (dtype === null) throw notFloat(name, file, tensor.dtype);
    return storedTensor({ dtype, shape: tensor.shape }, rangeOf({ file, tensor }), () =>
      this.readBytes(name),
    );
  }

  /** The bytes of a tensor of any type, as the file holds them. */
  readBytes(name: string): Uint8Array {
    const { file, tensor } = this.#place(name);
    return this.#fileBytes(file).read(tensor.offset, tensor.byteLength);
  }

  close(): void {
    for (const file of this.#files.values()) file.close();
    this.#files.clear();
  }

  #place(name: string): TensorPlace {
    const place = this.#places.get(name);
    if (place) return place;
    throw new NeedletailError(
      'bad_checkpoint',
      `the checkpoint has no tensor "${name}"; it may be of another model`,
    );
  }

  #fileBytes(path: string): FileBytes {
    const file = this.#files.get(path) ?? this.#openFile(path);
    this.#files.set(path, file);
    return file;
  }
}

export function rangeOf({ file, tensor }: TensorPlace): FileRange {
  return { path: file, start: tensor.offset, byteLength: tensor.byteLength };
}

/** A tensor whose bytes lie in a file, and are mapped by `map` when somebody asks for them. */
export function storedTensor(
  { dtype, shape }: Pick<TensorView, 'dtype' | 'shape'>,
  file: FileRange,
  map: () => Uint8Array,
): TensorView {
  let bytes: Uint8Array | null = null;
  return {
    dtype,
    shape,
    // V8 takes a mapping for memory of its own and collects garbage for each: who reads the file is spared it.
    get bytes() {
      return (bytes ??= map());
    },
    file,
  };
}

function notFloat(name: string, file: string, dtype: string): NeedletailError {
  return new NeedletailError(
    'bad_checkpoint',
    `${file}: tensor "${name}" is ${dtype}; weights can be F32, BF16 or F16: convert the checkpoint to one of these`,
  );
}

function openMapped(path: string): FileBytes {
  const fd = openSync(path, 'r');
  try {
    const mapping = new FileMapping(fd, fstatSync(fd).size);
    return {
      read: (offset, length) => viewBytes(mapping, path, offset, length),
      close: () => mapping.close(),
    };
  } catch {
    return openPlain(path); // some network and container file systems cannot map
  } finally {
    closeSync(fd);
  }
}

function viewBytes(mapping: FileMapping, path: string, offset: number, length: number): Uint8Array {
  if (offset + length > mapping.byteLength) throw becameShorter(path);
  return mapping.view(offset, length);
}

function openPlain(path: string): FileBytes {
  const fd = openSync(path, 'r');
  return {
    read: (offset, length) => readBytes(fd, path, offset, length),
    close: () => closeSync(fd),
  };
}

/** One call reads 2 GiB at most. */
const MAX_READ_BYTES = 2 ** 30;

function readBytes(fd: number, path: string, offset: number, length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  for (let done = 0; done < length;) {
    const count = readSync(fd, bytes, done, Math.min(length - done, MAX_READ_BYTES), offset + done);
    if (count === 0) throw becameShorter(path);
    done += count;
  }
  return bytes;
}

function becameShorter(path: string): NeedletailError {
  return new NeedletailError('bad_checkpoint', `${path}: became shorter since it was opened; fetch it again`);
}

/** A tensor to write; `dtype` as the format spells it, so that tests can write what we do not read. */
export interface TensorToWrite {
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly bytes: Uint8Array;
}

/** Writes a safetensors file with the tensors in the given order. */
export async function writeSafetensors(
  path: string,
  tensors: ReadonlyMap<string, TensorToWrite>,
): Promise<void> {
  let end = 0;
  const header: Record<string, unknown> = {};
  for (const [name, { dtype, shape, bytes }] of tensors) {
    header[name] = { dtype, shape, data_offsets: [end, (end += bytes.length)] };
  }
  await writeFile(
    path,
    Buffer.concat([headerBytes(header), ...[...tensors.values()].map(({ bytes }) => bytes)]),
  );
}

/** Length and JSON, padded with spaces so that the data begin at a multiple of 8. */
export function headerBytes(header: unknown): Uint8Array {
  const json = Buffer.from(JSON.stringify(header));
  const padded = Buffer.alloc(8 + Math.ceil(json.length / 8) * 8, ' ');
  padded.writeBigUInt64LE(BigInt(padded.length - 8));
  json.copy(padded, 8);
  return padded;
}
