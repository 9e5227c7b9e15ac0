import { mkdtemp, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { readSafetensorsHeader } from './safetensors-header.ts';
import {
  headerBytes,
  SafetensorsSource,
  type TensorPlace,
  type TensorToWrite,
  writeSafetensors,
} from './safetensors.ts';

let folder: string;
let file: string;

beforeEach(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'needletail-safetensors-'));
  file = path.join(folder, 'model.safetensors');
});

afterEach(() => rm(folder, { recursive: true, force: true }));

/** Writes a file with any header, true or not. */
async function write(header: unknown, numDataBytes = 0): Promise<void> {
  await writeFile(file, Buffer.concat([headerBytes(header), Buffer.alloc(numDataBytes)]));
}

async function placesOf(path: string): Promise<Map<string, TensorPlace>> {
  const { tensors } = await readSafetensorsHeader(path);
  return new Map([...tensors].map(([name, tensor]) => [name, { file: path, tensor }]));
}

const tensor = (start: number, end: number, shape = [(end - start) / 4], dtype: unknown = 'F32') => ({
  dtype,
  shape,
  data_offsets: [start, end],
});

describe('tensors that were written', () => {
  const tensors = fc.uniqueArray(
    fc.record({
      name: fc
        .string({ unit: 'grapheme', minLength: 1, maxLength: 8 })
        .filter((name) => name !== '__metadata__'),
      dtype: fc.constantFrom('F32', 'BF16', 'F16'),
      shape: fc.array(fc.nat(4), { maxLength: 3 }),
    }),
    { selector: (entry) => entry.name, maxLength: 6 },
  );

  it.each(['auto', 'never'] as const)('are read as they were (mapping: %s)', async (mapping) => {
    await fc.assert(
      fc.asyncProperty(tensors, async (entries) => {
        const written = new Map<string, TensorToWrite>();
        for (const { name, dtype, shape } of entries) {
          const length = shape.reduce((product, size) => product * size, 1) * (dtype === 'F32' ? 4 : 2);
          written.set(name, {
            dtype,
            shape,
            bytes: Uint8Array.from({ length }, (_, i) => i * 37 + written.size),
          });
        }
        await writeSafetensors(file, written);
        const source = new SafetensorsSource(await placesOf(file), mapping);
        for (const [name, { shape, bytes }] of written) {
          const view = source.read(name);
          expect(view.shape).toEqual(shape);
          expect(Array.from(view.bytes)).toEqual(Array.from(bytes));
        }
        source.close();
      }),
      { numRuns: 50 },
    );
  });

  it('have their types by our names', async () => {
    const bytes = new Uint8Array(4);
    await writeSafetensors(
      file,
      new Map([
        ['a', { dtype: 'F32', shape: [1], bytes }],
        ['b', { dtype: 'BF16', shape: [2], bytes }],
        ['c', { dtype: 'F16', shape: [2, 1], bytes }],
      ]),
    );
    const source = new SafetensorsSource(await placesOf(file));
    expect(['a', 'b', 'c'].map((name) => source.read(name).dtype)).toEqual([
      'float32',
      'bfloat16',
      'float16',
    ]);
    source.close();
  });

  it('may have a metadata entry beside them', async () => {
    await write({ __metadata__: { format: 'pt' }, a: tensor(0, 8) }, 8);
    expect([...(await readSafetensorsHeader(file)).tensors.keys()]).toEqual(['a']);
  });
});

describe('reading refuses', () => {
  it('a tensor that is not there, by name', async () => {
    await write({ a: tensor(0, 4) }, 4);
    const source = new SafetensorsSource(await placesOf(file));
    expect(() => source.read('b')).toThrow(/no tensor "b"/);
  });

  it('a tensor that is no float, by name and type', async () => {
    await write({ mask: tensor(0, 4, [4], 'BOOL') }, 4);
    const source = new SafetensorsSource(await placesOf(file));
    expect(() => source.read('mask')).toThrow(/"mask" is BOOL; weights can be F32, BF16 or F16/);
  });

  it.each(['auto', 'never'] as const)('a file that became shorter (mapping: %s)', async (mapping) => {
    await write({ a: tensor(0, 4), b: tensor(4, 8) }, 8);
    const source = new SafetensorsSource(await placesOf(file), mapping);
    await truncate(file, 100);
    expect(() => source.read('b').bytes).toThrow(/became shorter/);
    source.close();
  });
});

describe('a header is refused that', () => {
  const huge = Buffer.alloc(16);
  huge.writeBigUInt64LE(200_000_000n);
  const negative = Buffer.alloc(16, 0xff);
  const lying = Buffer.concat([headerBytes({ a: tensor(0, 4) }), Buffer.alloc(4)]);
  lying.writeBigUInt64LE(5000n);
  const json = (text: string) => {
    const length = Buffer.alloc(8);
    length.writeBigUInt64LE(BigInt(text.length));
    return Buffer.concat([length, Buffer.from(text, 'latin1')]);
  };

  it.each([
    ['is missing', Buffer.alloc(0), /is truncated: it has 0 bytes/],
    ['has half a length', Buffer.alloc(5), /is truncated: it has 5 bytes/],
    ['is huge', huge, /says that its header has 200000000 bytes/],
    ['has a length beyond all numbers', negative, /says that its header has 18446744073709552000 bytes/],
    ['lies about its length', lying, /is truncated: its header has 5000 bytes, but the file only/],
    ['is no JSON', json('{"a":'), /a header that is no JSON \(/],
    ['is no UTF-8', json('{"\xff":1}'), /a header that is no JSON \(/],
    ['is no object', json('[1,2]'), /no JSON object/],
    ['is empty text', json(''), /no JSON/],
    [
      'names a tensor twice',
      json(
        '{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"\\u0061":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}',
      ),
      /lists the tensor "a" twice/,
    ],
  ])('%s', async (_, bytes, message) => {
    await writeFile(file, bytes);
    await expect(readSafetensorsHeader(file)).rejects.toMatchObject({ code: 'bad_checkpoint' });
    await expect(readSafetensorsHeader(file)).rejects.toThrow(message);
    await expect(readSafetensorsHeader(file)).rejects.toThrow(
      /^model\.safetensors \(in .*\).*fetch or write it again$/,
    );
  });

  it.each([
    [
      'a tensor beyond the end',
      { a: tensor(0, 12) },
      8,
      /tensor "a" ends at byte \d+, but the file has \d+: it is trunc/,
    ],
    ['overlapping tensors', { a: tensor(0, 8), b: tensor(4, 12) }, 12, /overlapping tensors: "a" and "b"/],
    [
      'a gap between tensors',
      { a: tensor(0, 4), b: tensor(8, 12) },
      12,
      /4 bytes of no tensor between "a" and "b"/,
    ],
    ['a gap at the start', { a: tensor(4, 8) }, 8, /4 bytes of no tensor between the header and "a"/],
    ['bytes after the last tensor', { a: tensor(0, 4) }, 8, /4 bytes of no tensor after "a"/],
    ['an unknown type', { a: tensor(0, 4, [1], 'F31') }, 4, /tensor "a" has the unknown type "F31"/],
    ['a type that is no name', { a: tensor(0, 4, [1], 32) }, 4, /unknown type 32/],
    [
      'a shape of another size',
      { a: tensor(0, 4, [2]) },
      4,
      /"a" is F32 of shape \[2\], 8 bytes, but takes 4/,
    ],
    ['a shape that overflows', { a: tensor(0, 0, [2 ** 40, 2 ** 40]) }, 0, /"a" is F32 of shape/],
    ['a negative size', { a: tensor(0, 4, [-1]) }, 4, /has the shape \[-1\], which is no list of sizes/],
    ['a fractional size', { a: tensor(0, 2, [0.5]) }, 4, /which is no list of sizes/],
    ['negative offsets', { a: tensor(-4, 0, [1]) }, 4, /has the offsets \[-4,0\], which are no range/],
    ['offsets in the wrong order', { a: tensor(4, 0, [1]) }, 4, /which are no range/],
    ['one offset', { a: { dtype: 'F32', shape: [], data_offsets: [0] } }, 4, /which are no range/],
    ['no description', { a: 7 }, 4, /tensor "a" has no description/],
    ['no fields', { a: {} }, 4, /unknown type undefined/],
  ])('has %s', async (_, header, numDataBytes, message) => {
    await write(header, numDataBytes);
    await expect(readSafetensorsHeader(file)).rejects.toMatchObject({ code: 'bad_checkpoint' });
    await expect(readSafetensorsHeader(file)).rejects.toThrow(message);
  });

  it('is damaged in any way, without any other kind of error', async () => {
    const good = Buffer.concat([
      headerBytes({ a: tensor(0, 8), b: tensor(8, 16, [4], 'F32') }),
      Buffer.alloc(16),
    ]);
    await fc.assert(
      fc.asyncProperty(
        fc.nat(good.length - 1),
        fc.nat(255),
        fc.nat(good.length),
        async (at, byte, length) => {
          const bytes = Buffer.from(good);
          bytes[at] = byte;
          await writeFile(file, bytes.subarray(0, length));
          const code = await readSafetensorsHeader(file).then(
            () => 'read',
            (error: { code?: string }) => error.code,
          );
          expect(['read', 'bad_checkpoint']).toContain(code);
        },
      ),
      { numRuns: 200 },
    );
  });

  it('is of a file that is not there', async () => {
    await expect(readSafetensorsHeader(path.join(folder, 'none'))).rejects.toThrow(
      /cannot be opened \(ENOENT\)/,
    );
  });
});
