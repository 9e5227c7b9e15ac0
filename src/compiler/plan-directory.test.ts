import {
  mkdtempSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { compileRequest, panelKernels } from '../../test/support/compile.ts';
import { loadReference } from '../../test/support/reference-checkpoint.ts';
import { compile } from './compile.ts';
import { packWeight } from './pack-weight.ts';
import { isPlanDirectory, readPlanDirectory, writePlanDirectory, companionFiles } from './plan-directory.ts';
import type { WeightSpec } from './plan.ts';

const { config, catalog, source } = loadReference('llama3_gqa');
const PLAN = compile(
  compileRequest(config, {
    tensors: catalog,
    checkpointHash: 'abc',
    kernels: panelKernels(),
    recipe: { weightDType: 'bfloat16', quantization: null, kvDType: 'bfloat16', activationPrecision: 'auto' },
  }),
);
const CONTENT = { plan: PLAN, config, pack: (weight: WeightSpec) => packWeight(weight, source), files: [] };

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'needletail-plan-'));
});
afterEach(() => rmSync(folder, { recursive: true }));

const at = (...parts: string[]) => path.join(folder, ...parts);

describe('a plan directory', () => {
  test('gives back plan, config and every weight’s bytes, each aligned for a mapping', async () => {
    await writePlanDirectory(at('plan'), CONTENT);
    expect(await isPlanDirectory(at('plan'))).toBe(true);
    const opened = await readPlanDirectory(at('plan'), { checkpointHash: 'abc', recipe: 'bfloat16' });
    expect(opened.plan).toEqual(PLAN);
    expect(opened.config).toEqual(config);
    const file = readFileSync(opened.weights.path);
    for (const weight of PLAN.weights) {
      const expected = packWeight(weight, source);
      const offset = opened.weights.offsetOf(weight.id);
      expect(offset % 64).toBe(0);
      expect(Buffer.compare(opened.weights.readPacked(weight.id), expected), weight.name).toBe(0);
      expect(Buffer.compare(file.subarray(offset, offset + weight.bytes), expected)).toBe(0);
    }
    opened.weights.close();
    expect(() => opened.weights.readPacked(0)).toThrow(/closed/);
  });

  test('carries the files that serving needs, and no weights of the checkpoint', async () => {
    for (const name of ['tokenizer.json', 'chat_template.jinja', 'model.safetensors', 'notes.txt']) {
      writeFileSync(at(name), name);
    }
    await writePlanDirectory(at('plan'), { ...CONTENT, files: await companionFiles(folder) });
    expect(readdirSync(at('plan')).sort()).toEqual(
      ['chat_template.jinja', 'config.json', 'plan.json', 'tokenizer.json', 'weights.bin'].sort(),
    );
    expect(readFileSync(at('plan', 'tokenizer.json'), 'utf8')).toBe('tokenizer.json');
  });

  test('replaces an older one, and tells how far it is', async () => {
    await writePlanDirectory(at('plan'), CONTENT);
    const progress: number[] = [];
    await writePlanDirectory(at('plan'), CONTENT, {
      onProgress: (done, total) => progress.push(done / total),
    });
    expect(progress).toEqual([...progress].sort((a, b) => a - b));
    expect(progress.at(-1)).toBe(1);
    expect(readdirSync(folder)).toEqual(['plan']);
  });

  test('is not written over anything else', async () => {
    mkdirSync(at('precious'));
    writeFileSync(at('precious', 'thesis.txt'), '…');
    await expect(writePlanDirectory(at('precious'), CONTENT)).rejects.toThrow(
      /exists and is no plan directory/,
    );
    expect(readdirSync(at('precious'))).toEqual(['thesis.txt']);
  });

  test('that fails halfway leaves nothing behind', async () => {
    const pack = (weight: WeightSpec): Uint8Array => {
      if (weight.id === 3) throw new Error('unreadable');
      return packWeight(weight, source);
    };
    await expect(writePlanDirectory(at('plan'), { ...CONTENT, pack })).rejects.toThrow('unreadable');
    const signal = AbortSignal.abort(new Error('stopped'));
    await expect(writePlanDirectory(at('plan'), CONTENT, { signal })).rejects.toThrow('stopped');
    expect(readdirSync(folder)).toEqual([]);
  });
});

describe('a damaged plan directory is refused', () => {
  const broken = async (damage: () => void): Promise<unknown> => {
    await writePlanDirectory(at('plan'), CONTENT);
    damage();
    return readPlanDirectory(at('plan'));
  };

  test.each([
    ['without plan.json', () => rmSync(at('plan', 'plan.json')), /there is no plan\.json/],
    ['without config.json', () => rmSync(at('plan', 'config.json')), /there is no config\.json/],
    [
      'without weights.bin',
      () => rmSync(at('plan', 'weights.bin')),
      /weights\.bin cannot be opened \(ENOENT\)/,
    ],
    [
      'with truncated weights',
      () => truncateSync(at('plan', 'weights.bin'), 100),
      /has 100 bytes, .* Rebuild it: needletail build/,
    ],
    ['with a truncated plan', () => truncateSync(at('plan', 'plan.json'), 100), /not JSON/],
  ])('%s', async (_, damage, message) => {
    await expect(broken(damage)).rejects.toThrow(message);
  });

  test('one for another checkpoint names both hashes', async () => {
    await writePlanDirectory(at('plan'), CONTENT);
    await expect(readPlanDirectory(at('plan'), { checkpointHash: 'xyz' })).rejects.toThrow(
      /hash abc, but xyz/,
    );
  });
});
