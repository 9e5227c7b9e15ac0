// The header of a safetensors file: 8 bytes of length, JSON with every tensor's type, shape and place; nothing believed.
import { type FileHandle, open } from 'node:fs/promises';
import path from 'node:path';
import { NeedletailError } from '../util/errors.ts';
import { isJsonObject, type JsonObject } from '../util/json-file.ts';
import { duplicateKey } from './duplicate-key.ts';

/** As `huggingface/safetensors` bounds it. */
const MAX_HEADER_BYTES = 100_000_000;
const LENGTH_BYTES = 8;

/** Bits of one element, by the format's own type names. */
const DTYPE_BITS: ReadonlyMap<string, number> = new Map([
  ...['C64', 'F64', 'I64', 'U64'].map((name): [string, number] => [name, 64]),
  ...['F32', 'I32', 'U32'].map((name): [string, number] => [name, 32]),
  ...['BF16', 'F16', 'I16', 'U16'].map((name): [string, number] => [name, 16]),
  ...['F8_E4M3', 'F8_E5M2', 'F8_E8M0', 'I8', 'U8', 'BOOL'].map((name): [string, number] => [name, 8]),
  ...['F6_E2M3', 'F6_E3M2'].map((name): [string, number] => [name, 6]),
  ['F4', 4],
]);

export interface SafetensorsTensor {
  /** As the format spells it: `BF16`, `F32`, `BOOL`, … */
  readonly dtype: string;
  readonly shape: readonly number[];
  /** Of the first byte, from the beginning of the file. */
  readonly offset: number;
  readonly byteLength: number;
}

export interface SafetensorsHeader {
  readonly path: string;
  readonly fileBytes: number;
  /** The header's JSON as it stands in the file. */
  readonly json: Uint8Array;
  readonly tensors: ReadonlyMap<string, SafetensorsTensor>;
}

/** @throws NeedletailError `bad_checkpoint` naming the file, the tensor at fault and what to do. */
export async function readSafetensorsHeader(file: string): Promise<SafetensorsHeader> {
  const handle = await open(file, 'r').catch((error: NodeJS.ErrnoException) => {
    throw damaged(
      file,
      `cannot be opened (${error.code ?? error.message})`,
      'check that it exists and is readable',
    );
  });
  try {
    const { size } = await handle.stat();
    const json = await readHeaderBytes(handle, file, size);
    return { path: file, fileBytes: size, json, tensors: parseHeader(file, json, size) };
  } finally {
    await handle.close();
  }
}

async function readHeaderBytes(handle: FileHandle, file: string, fileBytes: number): Promise<Uint8Array> {
  if (fileBytes < LENGTH_BYTES) throw damaged(file, `is truncated: it has ${fileBytes} bytes`);
  const length = Number((await readAt(handle, file, 0, LENGTH_BYTES)).readBigUInt64LE());
  if (length > MAX_HEADER_BYTES) {
    throw damaged(
      file,
      `says that its header has ${length} bytes; more than ${MAX_HEADER_BYTES} cannot be right`,
    );
  }
  if (LENGTH_BYTES + length > fileBytes) {
    throw damaged(file, `is truncated: its header has ${length} bytes, but the file only ${fileBytes}`);
  }
  return readAt(handle, file, LENGTH_BYTES, length);
}

async function readAt(handle: FileHandle, file: string, position: number, length: number): Promise<Buffer> {
  const { bytesRead, buffer } = await handle.read(Buffer.alloc(length), 0, length, position);
  if (bytesRead < length) throw damaged(file, 'became shorter while it was read');
  return buffer;
}

function parseHeader(file: string, json: Uint8Array, fileBytes: number): Map<string, SafetensorsTensor> {
  const entries = parseJson(file, json);
  const dataStart = LENGTH_BYTES + json.length;
  const tensors = new Map<string, SafetensorsTensor>();
  for (const [name, entry] of Object.entries(entries)) {
    if (name !== '__metadata__') tensors.set(name, parseTensor(file, name, entry, dataStart, fileBytes));
  }
  checkLayout(file, tensors, dataStart, fileBytes);
  return tensors;
}

function parseJson(file: string, json: Uint8Array): JsonObject {
  let header: unknown;
  let duplicate: string | null;
  try {
    const text = new TextDecoder('utf-8', { fatal: true }).decode(json);
    header = JSON.parse(text);
    duplicate = duplicateKey(text);
  } catch (error) {
    throw damaged(
      file,
      `has a header that is no JSON (${error instanceof Error ? error.message : String(error)})`,
    );
  }
  if (!isJsonObject(header)) throw damaged(file, 'has a header that is no JSON object');
  if (duplicate !== null) throw damaged(file, `lists the tensor "${duplicate}" twice`);
  return header;
}

function parseTensor(
  file: string,
  name: string,
  entry: unknown,
  dataStart: number,
  fileBytes: number,
): SafetensorsTensor {
  const fail = (problem: string) => damaged(file, `tensor "${name}" ${problem}`);
  if (!isJsonObject(entry)) throw fail('has no description');
  const { dtype, shape, data_offsets: offsets } = entry;
  const bits = typeof dtype === 'string' ? DTYPE_BITS.get(dtype) : undefined;
  if (typeof dtype !== 'string' || bits === undefined)
    throw fail(`has the unknown type ${JSON.stringify(dtype)}`);
  if (!isSizes(shape)) throw fail(`has the shape ${JSON.stringify(shape)}, which is no list of sizes`);
  if (!isSizes(offsets) || offsets.length !== 2 || offsets[0] > offsets[1]) {
    throw fail(`has the offsets ${JSON.stringify(offsets)}, which are no range`);
  }
  const [start, end] = offsets;
  const expected = (shape.reduce((product, size) => product * size, 1) * bits) / 8;
  if (end - start !== expected) {
    throw fail(`is ${dtype} of shape [${shape.join(', ')}], ${expected} bytes, but takes ${end - start}`);
  }
  if (dataStart + end > fileBytes) {
    throw fail(`ends at byte ${dataStart + end}, but the file has ${fileBytes}: it is truncated`);
  }
  return { dtype, shape, offset: dataStart + start, byteLength: end - start };
}

function isSizes(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((size) => Number.isSafeInteger(size) && size >= 0);
}

/** Tensors follow each other without gaps and fill the file, as the format demands. */
function checkLayout(
  file: string,
  tensors: ReadonlyMap<string, SafetensorsTensor>,
  dataStart: number,
  fileBytes: number,
): void {
  const sorted = [...tensors].sort(([, a], [, b]) => a.offset - b.offset || a.byteLength - b.byteLength);
  let end = dataStart;
  let previous = 'the header';
  for (const [name, tensor] of sorted) {
    if (tensor.offset < end) throw damaged(file, `has overlapping tensors: "${previous}" and "${name}"`);
    if (tensor.offset > end) {
      throw damaged(
        file,
        `has ${tensor.offset - end} bytes of no tensor between ${quote(previous)} and "${name}"`,
      );
    }
    end = tensor.offset + tensor.byteLength;
    previous = name;
  }
  if (end < fileBytes)
    throw damaged(file, `has ${fileBytes - end} bytes of no tensor after ${quote(previous)}`);
}

function quote(name: string): string {
  return name === 'the header' ? name : `"${name}"`;
}

const ADVICE = 'fetch or write it again';

function damaged(file: string, problem: string, advice = ADVICE): NeedletailError {
  return new NeedletailError(
    'bad_checkpoint',
    `${path.basename(file)} (in ${path.dirname(file)}): ${problem}; ${advice}`,
  );
}
