// The layering check finds reversed arrows, circles, foreign packages and clocks, and passes our own tree's rules.
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';

const SCRIPT = path.resolve(import.meta.dirname, '../scripts/check-layers.mjs');
const { checkLayers } = (await import(pathToFileURL(SCRIPT).href)) as {
  checkLayers: (root: string) => { numFiles: number; problems: string[] };
};

let root: string;
beforeEach(() => {
  root = mkdtempSync(path.join(tmpdir(), 'layers-'));
});
afterEach(() => rmSync(root, { recursive: true }));

function write(files: Record<string, string>): void {
  for (const [name, text] of Object.entries(files)) {
    mkdirSync(path.dirname(path.join(root, name)), { recursive: true });
    writeFileSync(path.join(root, name), text);
  }
}

/** The problems of the tree written so far, a line each. */
function check(): string {
  return checkLayers(root).problems.join('\n');
}

describe('check-layers', () => {
  it('accepts imports that follow the arrows', () => {
    write({
      'util/errors.ts': 'export const a = 1;',
      'tensor/dtype.ts': "import { a } from '../util/errors.ts'; export const b = a;",
      'ir/graph.ts': "import type { b } from '../tensor/dtype.ts'; export type B = typeof b;",
      'engine/scheduler.ts':
        "import '../util/errors.ts'; import './sequence.ts'; // Date.now() is not for us",
      'engine/sequence.ts': 'export {};',
    });
    expect(checkLayers(root)).toEqual({ numFiles: 5, problems: [] });
  });

  it.each([
    ['a static import', "import { s } from '../server/server.ts'; s;"],
    ['a type-only import', "import type { s } from '../server/server.ts'; export type S = typeof s;"],
    ['a re-export', "export * from '../server/server.ts';"],
    ['a dynamic import', "export const load = () => import('../server/server.ts');"],
    ['an import type', "export type S = import('../server/server.ts').S;"],
  ])('refuses %s against the arrows', (_, text) => {
    write({ 'engine/protocol.ts': text, 'server/server.ts': 'export const s = 1;' });
    expect(check()).toContain('engine/protocol.ts: imports server/server.ts');
  });

  it('lets the device see the plan of the compiler and nothing else of it', () => {
    write({
      'compiler/plan.ts': 'export {};',
      'compiler/compile.ts': 'export {};',
      'device/device.ts': "import '../compiler/plan.ts';",
      'device/cheat.ts': "import '../compiler/compile.ts';",
    });
    const output = check();
    expect(output).toContain('device/cheat.ts: imports compiler/compile.ts');
    expect(output).not.toContain('device/device.ts');
  });

  it('keeps the scheduler free of everything but util and the engine', () => {
    write({ 'tensor/dtype.ts': 'export {};', 'engine/scheduler.ts': "import '../tensor/dtype.ts';" });
    expect(check()).toContain('engine/scheduler.ts: imports tensor/dtype.ts');
  });

  it('finds a circle of type-only imports', () => {
    write({
      'ir/a.ts': "import type { B } from './b.ts'; export type A = B;",
      'ir/b.ts': "import type { A } from './a.ts'; export type B = A;",
    });
    expect(check()).toContain('cycle: ir/a.ts → ir/b.ts → ir/a.ts');
  });

  it.each(['Date.now()', 'performance.now()', 'setTimeout(f, 1)', 'new Date()', 'process.hrtime.bigint()'])(
    'refuses %s in the scheduler',
    (use) => {
      write({ 'engine/scheduler.ts': `// a comment\nexport const t = ${use};\n` });
      expect(check()).toContain('engine/scheduler.ts:2: uses');
    },
  );

  it('fails as a command', () => {
    write({ 'util/a.ts': "import '../server/b.ts';", 'server/b.ts': 'export {};' });
    const { status, stderr, stdout } = spawnSync(process.execPath, [SCRIPT, root], { encoding: 'utf8' });
    expect(status).toBe(1);
    expect(stderr).toContain('util/a.ts: imports server/b.ts');
    expect(stdout).toBe('2 files, 1 layering problem\n');
  });

  it('keeps native calls in ffi', () => {
    write({ 'device/cpu.ts': "import koffi from 'koffi';", 'ffi/cpu.ts': "import koffi from 'koffi';" });
    const output = check();
    expect(output).toContain('device/cpu.ts: imports koffi');
    expect(output).not.toContain('ffi/cpu.ts');
  });

  it('asks for a new folder to be given its place', () => {
    write({ 'util/a.ts': 'export {};', 'misc/b.ts': "import '../util/a.ts';" });
    expect(check()).toContain('misc/b.ts: is in no layer');
  });
});
